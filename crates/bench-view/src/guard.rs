//! Who may ask: the browser on this machine, with a page of ours. Pure, so that every rule has a
//! test.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// Whether a request is answered, and why not.
pub(crate) fn admit(
    listening: SocketAddr,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(), (StatusCode, &'static str)> {
    // A name that an attacker's server resolves to this machine (DNS rebinding) gets no answer.
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if headers.get_all(header::HOST).iter().count() != 1 || !is_own(listening.ip(), host) {
        return Err((
            StatusCode::MISDIRECTED_REQUEST,
            "this server answers to its own address only, such as http://127.0.0.1 or http://localhost",
        ));
    }
    if method == Method::GET || method == Method::HEAD {
        return Ok(());
    }
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let is_own_page = text(header::ORIGIN) == Some(&format!("http://{host}"))
        && site.is_none_or(|site| site == "same-origin");
    if is_own_page {
        Ok(())
    } else {
        Err((StatusCode::FORBIDDEN, "only pages of this server may write"))
    }
}

/// Whether a `Host` header names this machine by an address rather than by a name that anybody may
/// have registered. The port may differ: it is mapped where a container runs this.
fn is_own(listening: IpAddr, host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let address: Option<IpAddr> = bare.unwrap_or(name).parse().ok();
    address.is_some_and(|address| address.is_loopback() || !listening.is_loopback())
}

/// What every answer says to the browser.
pub(crate) fn headers(headers: &mut HeaderMap) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    // A route that says more has said it already.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
}

/// Pages of this server: their scripts are files of this server, never inside a page.
pub(crate) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// The page of a report, whose charts bring their own style.
pub(crate) const REPORT_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// A file of a report, which somebody else may have written: an origin of its own, so that it can
/// ask nothing of this server.
pub(crate) const FILE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; \
    frame-ancestors 'none'; sandbox allow-scripts";

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:8642";

    #[track_caller]
    fn check(listening: &str, method: &Method, given: &[(&str, &str)], expect: u16) {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let admitted = admit(listening.parse().unwrap(), method, &headers);
        assert_eq!(
            admitted.map_or_else(|(status, _)| status.as_u16(), |()| 200),
            expect,
            "{given:?}"
        );
    }

    #[test]
    fn only_the_own_address_is_answered() {
        for (host, expect) in [
            ("127.0.0.1:8642", 200),
            ("localhost:8642", 200),
            ("LOCALHOST", 200),
            ("[::1]:8642", 200),
            ("127.0.0.1:9000", 200),
            ("evil.example:8642", 421),
            ("127.0.0.1.evil.example:8642", 421),
            ("localhost.evil.example", 421),
            ("192.168.1.2:8642", 421),
            ("", 421),
        ] {
            check(LOOPBACK, &Method::GET, &[("host", host)], expect);
        }
        check(LOOPBACK, &Method::GET, &[], 421);
        check(LOOPBACK, &Method::GET, &[("host", "localhost"), ("host", "evil.example")], 421);
    }

    #[test]
    fn a_server_for_others_answers_to_addresses_and_to_no_name() {
        check("0.0.0.0:80", &Method::GET, &[("host", "192.168.1.2")], 200);
        check("0.0.0.0:80", &Method::GET, &[("host", "evil.example")], 421);
    }

    #[test]
    fn only_an_own_page_may_write() {
        let host = ("host", "localhost:8642");
        let origin = ("origin", "http://localhost:8642");
        check(LOOPBACK, &Method::POST, &[host, origin], 200);
        check(LOOPBACK, &Method::POST, &[host, origin, ("sec-fetch-site", "same-origin")], 200);
        check(LOOPBACK, &Method::POST, &[host, origin, ("sec-fetch-site", "cross-site")], 403);
        check(LOOPBACK, &Method::POST, &[host], 403);
        for other in ["http://evil.example", "null", "http://localhost:1", "http://127.0.0.1:8642"]
        {
            check(LOOPBACK, &Method::POST, &[host, ("origin", other)], 403);
        }
        check(LOOPBACK, &Method::DELETE, &[host], 403);
    }
}
