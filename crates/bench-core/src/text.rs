//! Text from data files and models, made safe to show.

/// Characters that could act instead of being read become U+FFFD: control characters (terminal
/// escapes, NUL) other than line feed and tab, and the marks that change the direction of text.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

/// True for the characters that [`printable`] replaces.
pub fn acts(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text as a label: lower case, one space between words, without surrounding white space,
/// quotes, brackets, emphasis and full stops. The rows and columns of a confusion matrix.
pub fn label(text: &str) -> String {
    const AROUND: &[char] = &[
        '"', '\'', '`', '“', '”', '‘', '’', '.', ',', ':', ';', '!', '?', '(', ')', '[', ']', '{',
        '}', '<', '>', '*',
    ];
    let text = text.trim_matches(|c: char| c.is_whitespace() || AROUND.contains(&c));
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_is_left_without_case_and_what_stands_around_it() {
        assert_eq!(label(" **Sci/Tech.** "), "sci/tech");
        assert_eq!(label("Card   arrival"), "card arrival");
        assert_eq!(label("\n"), "");
    }

    #[test]
    fn what_acts_on_a_terminal_or_turns_text_around_is_replaced() {
        assert_eq!(printable("a\u{1b}[31m\0\u{202e}b\n"), "a\u{fffd}[31m\u{fffd}\u{fffd}b\n");
    }
}
