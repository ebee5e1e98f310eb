//! Markdown: the text stays as it is, its front matter becomes meta data, its first heading the
//! title.

use std::collections::BTreeMap;

use super::{Page, value};

pub(super) fn page(mut text: String) -> Page {
    let mut meta = BTreeMap::new();
    let mut title = String::new();
    if let Some((front, body)) = front_matter(&text) {
        for line in front.lines() {
            let Some((key, written)) = line.split_once(':') else { continue };
            let written = written.trim().trim_matches(['"', '\'']);
            if key.starts_with([' ', '-', '#']) || written.is_empty() {
                continue;
            }
            if key.trim() == "title" {
                written.clone_into(&mut title);
            } else {
                meta.insert(key.trim().to_owned(), value(written));
            }
        }
        text = body.to_owned();
    }
    if title.is_empty() {
        title = headings(&text).next().map_or_else(String::new, |(_, _, heading)| heading);
    }
    Page { title, text, meta }
}

/// What stands between two lines of `---` at the top, and what comes after.
fn front_matter(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("---").filter(|rest| rest.starts_with(['\n', '\r']))?;
    let end = rest.find("\n---")?;
    let body = rest[end + 4..].split_once('\n').map_or("", |(_, body)| body);
    Some((&rest[..end], body))
}

/// Every `#` heading outside of code: where it starts, its level, its words.
pub(crate) fn headings(text: &str) -> impl Iterator<Item = (usize, usize, String)> {
    let (mut at, mut fence) = (0, None);
    text.split_inclusive('\n').filter_map(move |line| {
        let start = at;
        at += line.len();
        let words = line.trim_start();
        let indent = line.len() - words.len();
        let marker = words.chars().next().filter(|mark| matches!(mark, '`' | '~'));
        let length = marker.map_or(0, |mark| words.chars().take_while(|c| *c == mark).count());
        match (fence, marker) {
            (Some((open, least)), Some(mark)) if mark == open && length >= least => fence = None,
            (None, Some(mark)) if length >= 3 => fence = Some((mark, length)),
            _ => {}
        }
        let level = words.bytes().take_while(|byte| *byte == b'#').count();
        let heading = fence.is_none() && indent < 4 && (1..=6).contains(&level);
        let words = &words[level..];
        let title = words.trim().trim_end_matches('#').trim_end();
        (heading && words.starts_with([' ', '\t']) && !title.is_empty())
            .then(|| (start, level, title.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_is_meta_data_and_the_first_heading_the_title() {
        let found = page(
            "---\nlang: en\nyear: 1911\ntags:\n - a\n---\n# Tarn *bridge* #\n\nTrams.\n".into(),
        );
        assert_eq!(found.title, "Tarn *bridge*");
        assert_eq!(found.text, "# Tarn *bridge* #\n\nTrams.\n");
        assert_eq!(
            found.meta,
            BTreeMap::from([("lang".into(), "en".into()), ("year".into(), 1911.into())])
        );
        assert_eq!(page("---\ntitle: \"A: b\"\n---\n# C\n".into()).title, "A: b");
        let unfinished = "---\nno end";
        assert_eq!(page(unfinished.into()).text, unfinished);
    }

    #[test]
    fn a_heading_in_code_is_none() {
        let text = "```sh\n# comment\n```\n#no\n## Yes\n~~~\n# no\n~~~\n    # no\n# Top\n";
        let found: Vec<_> = headings(text).map(|(_, level, words)| (level, words)).collect();
        assert_eq!(found, [(2, "Yes".to_owned()), (1, "Top".to_owned())]);
        assert!(text[headings(text).last().unwrap().0..].starts_with("# Top"));
    }
}
