//! Cuts documents into chunks by tokens of the embedder, at sentence ends where it can.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use bench_core::backend::{BackendError, Embedder};
use bench_core::dataset::Document;
use bench_core::retrieval::Chunk;
use bench_core::spec::Rag;
use rayon::prelude::*;
use text_splitter::{ChunkConfig, ChunkSizer, TextSplitter};

use crate::fatal;

/// Cuts every document. No chunk is longer than `chunk_size` tokens, nor, together with its
/// title, than the embedder's window: a whole document that does not fit is cut as well.
///
/// # Errors
/// A `chunk_size` beyond the window, an overlap that is not below it, two documents of one id, a
/// corpus without text.
pub(crate) fn cut(
    documents: &[Document],
    settings: &Rag,
    embedder: Option<&dyn Embedder>,
) -> Result<Vec<Chunk>, BackendError> {
    let window = embedder.map_or(usize::MAX, Embedder::window);
    let (size, overlap) = (settings.chunk_size as usize, settings.chunk_overlap as usize);
    if size > window {
        return Err(fatal(format!(
            "`chunk_size` is {size}, but the embedder reads {window} tokens and would not see the \
             rest; give at most {window}"
        )));
    }
    if size > 0 && overlap >= size {
        return Err(fatal(format!("chunks of {size} tokens cannot overlap by {overlap}")));
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = documents.iter().find(|document| !ids.insert(&document.id)) {
        return Err(fatal(format!("two documents have the id `{}`", twice.id)));
    }
    let cutter = || Cutter { embedder, window, size, overlap, counts: RefCell::default() };
    let chunks: Vec<Chunk> = documents
        .par_iter()
        .map_init(cutter, |cutter, document| cutter.cut(document))
        .flatten_iter()
        .collect();
    if chunks.is_empty() {
        return Err(fatal("the corpus holds no text"));
    }
    Ok(chunks)
}

struct Cutter<'a> {
    embedder: Option<&'a dyn Embedder>,
    window: usize,
    size: usize,
    overlap: usize,
    counts: RefCell<HashMap<String, usize>>,
}

impl Cutter<'_> {
    fn cut(&self, document: &Document) -> Vec<Chunk> {
        let title = self.title(document.title.trim());
        let heading = if title.is_empty() { 0 } else { self.tokens(&title) + 1 };
        let limit = if self.size == 0 { self.window } else { self.size };
        let capacity = limit.min(self.window - heading);
        let mut texts = Vec::new();
        self.split(&title, document.text.trim(), capacity, &mut texts);
        let chunk = |(n, text): (usize, &str)| Chunk {
            id: format!("{}#{n}", document.id),
            document: document.id.clone(),
            title: title.clone(),
            text: text.to_owned(),
        };
        texts.into_iter().enumerate().map(chunk).collect()
    }

    /// The title, or as many of its words as fit half the window.
    fn title(&self, title: &str) -> String {
        if self.tokens(title) < self.window / 2 {
            return title.to_owned();
        }
        let words: Vec<&str> = title.split_whitespace().collect();
        let fits = |n: &usize| self.tokens(&words[..*n].join(" ")) < self.window / 2;
        words[..(0..words.len()).rev().find(fits).unwrap_or(0)].join(" ")
    }

    /// Word counts need not add up to the count of a text, so each piece is counted as a whole,
    /// and one that proves too long is cut again at half the size.
    fn split<'t>(&self, title: &str, text: &'t str, capacity: usize, out: &mut Vec<&'t str>) {
        if self.tokens(text) <= capacity && self.fits(title, text) {
            return out.extend((!text.is_empty()).then_some(text));
        }
        let overlap = self.overlap.min(capacity / 2);
        let config = ChunkConfig::new(capacity).with_sizer(self);
        let config = config.with_overlap(overlap).expect("the overlap is below the capacity");
        for piece in TextSplitter::new(config).chunks(text) {
            if capacity == 1 || self.fits(title, piece) {
                out.push(piece);
            } else {
                self.split(title, piece, capacity / 2, out);
            }
        }
    }

    fn fits(&self, title: &str, text: &str) -> bool {
        self.embedder.is_none_or(|embedder| {
            let titled = if title.is_empty() { text } else { &format!("{title}: {text}") };
            embedder.count_tokens(titled) <= self.window
        })
    }

    /// The sum over words, each counted once: an embedder's tokenizer is far too slow to be asked
    /// about every prefix of a text.
    fn tokens(&self, text: &str) -> usize {
        let Some(embedder) = self.embedder else { return text.split_whitespace().count() };
        let mut counts = self.counts.borrow_mut();
        let mut count = |word: &str| match counts.get(word) {
            Some(known) => *known,
            None => *counts.entry(word.to_owned()).or_insert(embedder.count_tokens(word)),
        };
        text.split_whitespace().map(&mut count).sum()
    }
}

impl ChunkSizer for Cutter<'_> {
    fn size(&self, chunk: &str) -> usize {
        self.tokens(chunk)
    }
}

#[cfg(test)]
mod tests {
    use bench_core::backend::Purpose;

    use super::*;

    /// Counts letters as a real tokenizer counts pieces: words of one length differ in tokens.
    struct Letters {
        window: usize,
    }

    impl Embedder for Letters {
        fn id(&self) -> &'static str {
            "letters"
        }
        fn dimension(&self) -> usize {
            1
        }
        fn window(&self) -> usize {
            self.window
        }
        fn count_tokens(&self, text: &str) -> usize {
            text.chars().filter(|c| !c.is_whitespace()).count()
        }
        fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            Ok(vec![vec![1.0]; texts.len()])
        }
    }

    fn document(title: &str, text: &str) -> Document {
        Document { id: "d".into(), title: title.into(), text: text.into() }
    }

    #[track_caller]
    fn check(window: usize, size: u32, overlap: u32, document: Document, expect: &[&str]) {
        let settings = Rag { chunk_size: size, chunk_overlap: overlap, ..Rag::default() };
        let chunks = cut(&[document], &settings, Some(&Letters { window })).unwrap();
        assert_eq!(chunks.iter().map(|chunk| chunk.text.as_str()).collect::<Vec<_>>(), expect);
        for (n, chunk) in chunks.iter().enumerate() {
            assert_eq!(chunk.id, format!("d#{n}"));
            assert!(Letters { window }.count_tokens(&chunk.contextual()) <= window);
        }
    }

    #[test]
    fn a_cut_falls_between_sentences_and_else_between_words() {
        let text = "One two. Three four. Five six seven eight nine ten.";
        let expect = ["One two.", "Three four.", "Five six", "seven eight", "nine ten."];
        check(100, 10, 0, document("", text), &expect);
    }

    #[test]
    fn neighbours_share_the_overlap() {
        check(100, 4, 2, document("", "aa bb cc dd"), &["aa bb", "bb cc", "cc dd"]);
    }

    #[test]
    fn a_document_that_fits_stays_whole() {
        check(100, 0, 0, document("T", "One two.\n\nThree."), &["One two.\n\nThree."]);
    }

    #[test]
    fn a_whole_document_beyond_the_window_is_cut_and_not_truncated() {
        check(9, 0, 0, document("", "aaa bbb ccc ddd"), &["aaa bbb ccc", "ddd"]);
    }

    #[test]
    fn a_title_takes_its_room_in_the_window() {
        check(9, 9, 0, document("ttt", "aaa bbb ccc"), &["aaa", "bbb", "ccc"]);
    }

    #[test]
    fn a_title_beyond_half_the_window_is_shortened() {
        check(10, 10, 0, document("tt uu vv ww", "aaa bbb"), &["aaa", "bbb"]);
    }

    #[test]
    fn a_chunk_size_beyond_the_window_is_an_error() {
        let settings = Rag { chunk_size: 300, ..Rag::default() };
        let error = cut(&[document("", "a")], &settings, Some(&Letters { window: 254 }));
        let error = error.unwrap_err().chain();
        assert!(error.contains("`chunk_size` is 300, but the embedder reads 254"), "{error}");
    }

    #[test]
    fn a_corpus_needs_text_and_distinct_ids() {
        let error = |documents: &[Document]| {
            cut(documents, &Rag::default(), None).unwrap_err().source.to_string()
        };
        assert_eq!(error(&[document("", " ")]), "the corpus holds no text");
        let twice = [document("", "a"), document("", "b")];
        assert_eq!(error(&twice), "two documents have the id `d`");
    }
}
