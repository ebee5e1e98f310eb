//! English text as search terms: lower case, no stop words, Snowball stems.

use std::collections::HashMap;

use bench_core::backend::{BackendError, Embedder};
use bench_core::dataset::Document;
use bench_core::retrieval::{Analysis, Cut};
use bench_core::spec::{Rag, Terms};
use rust_stemmers::{Algorithm, Stemmer};

/// English text analysis.
#[derive(Clone, Copy, Debug, Default)]
pub struct English;

impl Analysis for English {
    fn id(&self) -> &'static str {
        "english-2"
    }

    fn chunks(
        &self,
        documents: &[&Document],
        settings: &Rag,
        embedder: Option<&dyn Embedder>,
    ) -> Result<Cut, BackendError> {
        crate::chunk::cut(documents, settings, embedder)
    }

    fn terms(&self, text: &str, how: Terms) -> Vec<String> {
        Reader::new(how).terms(text)
    }
}

/// Reads many texts, remembering the stem of each word it has met.
#[derive(Default)]
pub(crate) struct Reader {
    how: Terms,
    stems: HashMap<String, Option<String>>,
}

impl Reader {
    pub(crate) fn new(how: Terms) -> Self {
        Self { how, stems: HashMap::new() }
    }

    pub(crate) fn terms(&mut self, text: &str) -> Vec<String> {
        let text = text.to_lowercase().replace('\u{2019}', "'");
        text.split(|c: char| !c.is_alphanumeric() && c != '\'')
            .map(|word| word.trim_matches('\''))
            .filter(|word| !word.is_empty())
            .filter_map(|word| self.stem(word))
            .collect()
    }

    fn stem(&mut self, word: &str) -> Option<String> {
        if let Some(known) = self.stems.get(word) {
            return known.clone();
        }
        let kept = !self.how.stop_words || STOP_WORDS.binary_search(&word).is_err();
        let stem = kept.then(|| {
            if !self.how.stem {
                return word.to_owned();
            }
            Stemmer::create(Algorithm::English).stem(word).into_owned()
        });
        self.stems.insert(word.to_owned(), stem.clone());
        stem
    }
}

/// Function words, in alphabetical order: they occur everywhere and tell nothing apart.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "again", "against", "all", "also", "am", "an", "and", "any", "are",
    "as", "at", "be", "because", "been", "before", "being", "between", "both", "but", "by", "can",
    "could", "did", "do", "does", "doing", "down", "during", "each", "few", "for", "from",
    "further", "had", "has", "have", "having", "he", "her", "here", "hers", "him", "his", "how",
    "i", "if", "in", "into", "is", "it", "its", "just", "me", "more", "most", "my", "no", "nor",
    "not", "now", "of", "off", "on", "once", "only", "or", "other", "our", "ours", "out", "over",
    "own", "same", "she", "should", "so", "some", "such", "than", "that", "the", "their", "theirs",
    "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "under",
    "until", "up", "very", "was", "we", "were", "what", "when", "where", "which", "while", "who",
    "whom", "whose", "why", "will", "with", "would", "you", "your", "yours",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &[&str]) {
        assert_eq!(English.terms(text, Terms::default()), expect);
    }

    #[test]
    fn stems_and_stop_words_are_settings() {
        let terms = |stem, stop_words| English.terms("The dogs", Terms { stem, stop_words });
        assert_eq!(terms(false, true), ["dogs"]);
        assert_eq!(terms(true, false), ["the", "dog"]);
    }

    #[test]
    fn words_become_stems_and_function_words_go() {
        check("The running Dogs were barking at the dog!", &["run", "dog", "bark", "dog"]);
    }

    #[test]
    fn numbers_accents_and_other_scripts_stay() {
        check("Café №7 costs 1,230 元", &["café", "7", "cost", "1", "230", "元"]);
    }

    #[test]
    fn a_possessive_is_its_noun() {
        check("The queen\u{2019}s bridge, 'Queen'", &["queen", "bridg", "queen"]);
    }

    #[test]
    fn a_text_of_function_words_has_no_term() {
        check("What is it that they were?", &[]);
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
    }
}
