//! HTML: the words a reader would see.

use std::collections::BTreeMap;

use super::Page;

/// Lines are broken at this width, far beyond any paragraph's sentence.
const WIDTH: usize = 2000;

pub(super) fn page(source: &str) -> Result<Page, String> {
    let text = render(source)?;
    let title = title(source).map(render).transpose()?.unwrap_or_default();
    Ok(Page { title: title.trim().to_owned(), text, meta: BTreeMap::new() })
}

fn render(source: &str) -> Result<String, String> {
    let words_alone = html2text::render::TrivialDecorator::new();
    let config = html2text::config::with_decorator(words_alone).no_table_borders().raw_mode(true);
    let text = config
        .string_from_read(source.as_bytes(), WIDTH)
        .map_err(|error| format!("not HTML that can be read: {error}"))?;
    let mut lines = String::with_capacity(text.len());
    for line in text.lines().map(str::trim) {
        // Rules and frames of tables are drawn, not written.
        if !line.is_empty() && line.chars().all(|c| ('\u{2500}'..='\u{257f}').contains(&c)) {
            continue;
        }
        if !(line.is_empty() && (lines.is_empty() || lines.ends_with("\n\n"))) {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    Ok(lines.trim_end().to_owned())
}

/// What stands in the `title` element.
fn title(source: &str) -> Option<&str> {
    let lower = source.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start + lower[start..].find("</title")?;
    Some(&source[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_words_a_reader_sees() {
        let source = "<html><head><Title>Tarn &amp; bridge</title><style>p { color: red }</style>\
            <script>var hidden = 1;</script></head><body><h1>The bridge</h1><p>It carries \
            <b>trams</b> &mdash; see <a href='https://example.com'>the map</a>.</p><hr>\
            <table><tr><td>opened</td><td>1911</td></tr></table></body></html>";
        let found = page(source).unwrap();
        assert_eq!(found.title, "Tarn & bridge");
        assert!(found.text.contains("It carries trams \u{2014} see the map."), "{}", found.text);
        assert!(found.text.contains("1911"));
        assert!(!found.text.contains("hidden") && !found.text.contains("color"));
        assert!(!found.text.contains('\u{2500}'), "{}", found.text);
    }

    #[test]
    fn tags_without_end_are_read_as_browsers_do() {
        assert_eq!(page("<p>one<p>two <b>three").unwrap().text, "one\n\ntwo three");
    }
}
