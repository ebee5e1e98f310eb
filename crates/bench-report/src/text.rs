//! Text from data files and models, made safe to show: every writer of a report passes through here.

use std::fmt::Write as _;

use bench_core::text::acts;
pub(crate) use bench_core::text::printable;

/// Printable text on one line, runs of white space as one space.
pub(crate) fn line(text: &str) -> String {
    printable(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first `length` characters, with an ellipsis where something is missing.
pub(crate) fn cut(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Markdown that shows exactly this text, on one line: what could be markup becomes an entity, which
/// Markdown never reads as markup.
pub(crate) fn markdown(text: &str) -> String {
    let text = line(text);
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        let beside =
            |step: isize| at.checked_add_signed(step).and_then(|at| chars.get(at)).copied();
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let acts = match c {
            '&' | '<' | '`' | '*' | '[' | ']' | '|' | '\\' | '~' | '$' | '#' | '!' => true,
            // `a@b` is plain text, `@b` is a person.
            '@' => !is_word(beside(-1)),
            // `a_b` is plain text, `_a_` is not.
            '_' => !(is_word(beside(-1)) && is_word(beside(1))),
            // The colon of an address, which would become a link; `:name:` would become a picture.
            ':' => beside(1) == Some('/') || is_word(beside(1)),
            // What opens a quotation, a list, a rule or a heading.
            '>' | '=' => at == 0,
            '-' | '+' => at == 0 && beside(1).is_none_or(|next| next == ' ' || next == c),
            '.' | ')' => {
                chars[..at].ends_with(&['w', 'w', 'w'])
                    || (beside(1).is_none_or(|next| next == ' ')
                        && at > 0
                        && chars[..at].iter().all(char::is_ascii_digit))
            }
            _ => false,
        };
        if acts {
            let _ = write!(out, "&#{};", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// As [`markdown`], set as code: nothing inside is a mention, a link or a formula.
pub(crate) fn markdown_code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("<code>{}</code>", markdown(text)) }
}

/// Text for an XML attribute or element.
pub(crate) fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no way to write these.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// JSON in which the characters of [`printable`] are escaped, so that it says the same.
pub(crate) fn json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A name as part of a file name.
pub(crate) fn file_stem(name: &str) -> String {
    let stem: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    cut(&stem, 40).replace('…', "")
}

/// Three decimals; a dash without a figure.
pub(crate) fn number(value: impl Into<Option<f64>>) -> String {
    value.into().map_or_else(dash, |x| format!("{:.3}", zeroed(x, 3)))
}

/// Three decimals with the sign always shown.
pub(crate) fn signed(value: f64) -> String {
    format!("{:+.3}", zeroed(value, 3))
}

/// No decimals.
pub(crate) fn whole(value: impl Into<Option<f64>>) -> String {
    value.into().map_or_else(dash, |x| grouped(x.round() as i64))
}

/// One decimal.
pub(crate) fn tenth(value: impl Into<Option<f64>>) -> String {
    value.into().map_or_else(dash, |x| format!("{:.1}", zeroed(x, 1)))
}

/// A p-value, never printed as zero.
pub(crate) fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

/// US dollars, without their sign, with three significant figures where they are few.
pub(crate) fn dollars(value: impl Into<Option<f64>>) -> String {
    value.into().map_or_else(dash, |x| match x.abs() {
        0.0 => "0".into(),
        size if size >= 100.0 => grouped(x.round() as i64),
        size if size >= 1.0 => format!("{x:.2}"),
        size => {
            let decimals = (2 - size.log10().floor() as i32).clamp(2, 9) as usize;
            format!("{x:.decimals$}")
        }
    })
}

/// Bytes in GiB.
pub(crate) fn gibibytes(bytes: u64) -> String {
    if bytes == 0 { dash() } else { format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)) }
}

/// Seconds as a person says them.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 120.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

/// 12345 as "12,345".
pub(crate) fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::from(if n < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn dash() -> String {
    "–".into()
}

/// Keeps a rounded zero from being written as "-0.000".
fn zeroed(x: f64, decimals: i32) -> f64 {
    let unit = 10_f64.powi(decimals);
    (x * unit).round() / unit + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(markdown("zero_shot"), "zero_shot");
        assert_eq!(markdown("_a_ | <b> `c`"), "&#95;a&#95; &#124; &#60;b> &#96;c&#96;");
        assert_eq!(markdown("![x](http://y) @me"), "&#33;&#91;x&#93;(http&#58;//y) &#64;me");
        assert_eq!(markdown("# h\n- l"), "&#35; h - l");
        assert_eq!(markdown("1. one"), "1&#46; one");
        assert_eq!(
            ["0.5", "-0.5", "- a", "> b"].map(markdown),
            ["0.5", "-0.5", "&#45; a", "&#62; b"]
        );
    }

    #[test]
    fn what_acts_on_a_terminal_or_turns_text_around_is_replaced() {
        assert_eq!(printable("a\u{1b}[31m\0\u{202e}b\n"), "a\u{fffd}[31m\u{fffd}\u{fffd}b\n");
        assert_eq!(line(" a\n\tb "), "a b");
        assert_eq!(xml("<\u{0}&\">"), "&lt;\u{fffd}&amp;&quot;&gt;");
    }

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(
            (number(-0.0001), signed(0.0), p_value(0.000_2)),
            ("0.000".into(), "+0.000".into(), "<0.001".into())
        );
        assert_eq!(
            [dollars(0.012_345), dollars(12.3), dollars(4567.0), dollars(None)],
            ["0.0123", "12.30", "4,567", "–"]
        );
        assert_eq!(grouped(-1_234_567), "-1,234,567");
        assert_eq!(cut("añb", 2), "añ…");
    }
}
