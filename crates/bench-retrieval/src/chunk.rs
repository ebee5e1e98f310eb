//! Cuts documents into chunks by tokens of the embedder, where the settings let a cut fall.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use bench_core::backend::{BackendError, Embedder};
use bench_core::dataset::Document;
use bench_core::retrieval::{Chunk, Cut};
use bench_core::spec::{ChunkBy, Chunking, Rag};
use rayon::prelude::*;
use text_splitter::{ChunkConfig, ChunkSizer, MarkdownSplitter, TextSplitter};

use crate::documents::headings;
use crate::fatal;

/// Cuts every document. No chunk, together with its title, is longer than the embedder's window:
/// what does not fit is cut further, and counted.
///
/// # Errors
/// An overlap that is not below the size, two documents of one id, a corpus without text.
pub(crate) fn cut(
    documents: &[&Document],
    settings: &Rag,
    embedder: Option<&dyn Embedder>,
) -> Result<Cut, BackendError> {
    let window = embedder.map_or(usize::MAX, Embedder::window);
    let how = settings.chunking();
    if how.by != ChunkBy::Document && how.overlap >= how.size {
        let Chunking { size, overlap, .. } = how;
        return Err(fatal(format!("chunks of {size} tokens cannot overlap by {overlap}")));
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = documents.iter().find(|document| !ids.insert(&document.id)) {
        return Err(fatal(format!("two documents have the id `{}`", twice.id)));
    }
    let cutter = || Cutter { embedder, window, how, counts: RefCell::default() };
    let found: Vec<(Vec<Chunk>, bool)> =
        documents.par_iter().map_init(cutter, |cutter, document| cutter.cut(document)).collect();
    let cut_to_window = found.iter().filter(|(_, shortened)| *shortened).count() as u64;
    let chunks = found.into_iter().map(|(chunks, _)| chunks).collect();
    Ok(Cut { chunks, cut_to_window })
}

/// Longer texts are cut in parts of this many bytes, so that the splitter's tables stay small.
const PART: usize = 1 << 20;

struct Cutter<'a> {
    embedder: Option<&'a dyn Embedder>,
    window: usize,
    how: Chunking,
    counts: RefCell<HashMap<String, usize>>,
}

impl Cutter<'_> {
    /// The chunks of a document, and whether any is smaller than asked for because of the window.
    fn cut(&self, document: &Document) -> (Vec<Chunk>, bool) {
        let title = self.title(document.title.trim());
        let heading = if title.is_empty() { 0 } else { self.tokens(&title) + 1 };
        let room = self.window - heading;
        let asked = match self.how.by {
            ChunkBy::Document => usize::MAX,
            ChunkBy::Tokens | ChunkBy::Sentence | ChunkBy::Markdown => self.how.size as usize,
        };
        let capacity = asked.min(room);
        let text = document.text.as_str();
        let mut pieces = Vec::new();
        for part in parts(text) {
            match self.how.by {
                ChunkBy::Tokens | ChunkBy::Document => {
                    self.split(&title, part, capacity, Splitter::Text, &mut pieces);
                }
                ChunkBy::Markdown => {
                    self.split(&title, part, capacity, Splitter::Markdown, &mut pieces);
                }
                ChunkBy::Sentence => self.pack(&title, part, capacity, room, &mut pieces),
            }
        }
        let shortened = asked > self.window && pieces.len() > 1;
        let titles = match self.how.by {
            ChunkBy::Markdown => self.paths(&title, text, &pieces),
            ChunkBy::Tokens | ChunkBy::Sentence | ChunkBy::Document => {
                vec![title; pieces.len()]
            }
        };
        let of = pieces.len() as u32;
        let chunk = |(n, (piece, title)): (usize, (&str, String))| Chunk {
            id: format!("{}#{n}", document.id),
            document: document.id.clone(),
            title,
            text: piece.to_owned(),
            n: n as u32,
            of,
            start: start(text, piece) as u64,
            meta: document.meta.clone(),
        };
        (pieces.into_iter().zip(titles).enumerate().map(chunk).collect(), shortened)
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
    fn split<'t>(
        &self,
        title: &str,
        text: &'t str,
        capacity: usize,
        splitter: Splitter,
        out: &mut Vec<&'t str>,
    ) {
        let text = text.trim();
        if self.tokens(text) <= capacity && self.fits(title, text) {
            return out.extend((!text.is_empty()).then_some(text));
        }
        let overlap = (self.how.overlap as usize).min(capacity / 2);
        let config = ChunkConfig::new(capacity).with_sizer(self);
        let config = config.with_overlap(overlap).expect("the overlap is below the capacity");
        let pieces: Vec<&str> = match splitter {
            Splitter::Text => TextSplitter::new(config).chunks(text).collect(),
            Splitter::Markdown => MarkdownSplitter::new(config).chunks(text).collect(),
        };
        for piece in pieces {
            if capacity == 1 || self.fits(title, piece) {
                out.push(piece);
            } else {
                self.split(title, piece, capacity / 2, splitter, out);
            }
        }
    }

    /// Whole sentences, as many as fit `capacity` and at least one; a sentence that does not fit
    /// the `room` that the window leaves is split.
    fn pack<'t>(
        &self,
        title: &str,
        text: &'t str,
        capacity: usize,
        room: usize,
        out: &mut Vec<&'t str>,
    ) {
        let sentences = sentences(text);
        let tokens: Vec<usize> = sentences.iter().map(|sentence| self.tokens(sentence)).collect();
        let span = |first: usize, past: usize| {
            let start = start(text, sentences[first]);
            let last = sentences[past - 1];
            &text[start..self::start(text, last) + last.len()]
        };
        let mut first = 0;
        while first < sentences.len() {
            let mut past = first + 1;
            let mut sum = tokens[first];
            while past < sentences.len() && sum + tokens[past] <= capacity {
                sum += tokens[past];
                past += 1;
            }
            while past > first + 1 && !self.fits(title, span(first, past)) {
                past -= 1;
            }
            let piece = span(first, past);
            if past == first + 1 && (tokens[first] > room || !self.fits(title, piece)) {
                self.split(title, piece, capacity.max(1), Splitter::Text, out);
            } else {
                out.push(piece);
            }
            if past == sentences.len() {
                break;
            }
            // Whole sentences of at most the overlap are repeated, but never all of them.
            let (mut repeated, mut next) = (0, past);
            while next > first + 1 && repeated + tokens[next - 1] <= self.how.overlap as usize {
                next -= 1;
                repeated += tokens[next];
            }
            // Nor so many that no new one fits behind them.
            while next < past && repeated + tokens[past] > capacity {
                repeated -= tokens[next];
                next += 1;
            }
            first = next;
        }
    }

    /// For each piece the document's title and the headings that it stands under.
    fn paths(&self, title: &str, text: &str, pieces: &[&str]) -> Vec<String> {
        let mut headings = headings(text).peekable();
        let mut path: Vec<(usize, usize, String)> = Vec::new();
        let mut titles = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let at = start(text, piece);
            while let Some(heading) = headings.next_if(|(start, ..)| *start <= at) {
                while path.last().is_some_and(|(_, level, _)| *level >= heading.1) {
                    path.pop();
                }
                path.push(heading);
            }
            // A heading that the piece itself begins with, or that is the title, is not said twice.
            let above = path.iter().filter(|(start, _, words)| *start < at && words != title);
            let words: Vec<&str> = (!title.is_empty())
                .then_some(title)
                .into_iter()
                .chain(above.map(|(_, _, words)| words.as_str()))
                .collect();
            let titled = self.title(&words.join(" > "));
            titles.push(if self.fits(&titled, piece) { titled } else { title.to_owned() });
        }
        titles
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

#[derive(Clone, Copy)]
enum Splitter {
    Text,
    Markdown,
}

/// Where a piece starts in the text that it is a part of.
fn start(text: &str, piece: &str) -> usize {
    piece.as_ptr() as usize - text.as_ptr() as usize
}

/// The text in parts of at most [`PART`] bytes, cut at a paragraph, line or word where there is
/// one in the second half.
fn parts(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > PART {
        let mut end = PART;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let window = &text[..end];
        let cut = ["\n\n", "\n", " "]
            .iter()
            .find_map(|mark| window.rfind(mark).filter(|at| *at > PART / 2))
            .unwrap_or(end);
        let (part, rest) = text.split_at(cut);
        parts.push(part);
        text = rest;
    }
    parts.push(text);
    parts
}

/// Sentences in order, without the space around them: they end at `.`, `!`, `?` and their likes
/// before a space and something that does not continue in lower case, and at an empty line.
pub(crate) fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut from = 0;
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let end = match letter {
            '\n' if text[at + 1..].trim_start_matches([' ', '\t', '\r']).starts_with('\n') => at,
            '.' | '!' | '?' | '\u{2026}' => {
                let closing =
                    |c: &char| matches!(c, '"' | '\'' | ')' | ']' | '\u{201d}' | '\u{2019}');
                let mut end = at + letter.len_utf8();
                while let Some((at, mark)) =
                    letters.next_if(|(_, c)| closing(c) || matches!(c, '.' | '!' | '?'))
                {
                    end = at + mark.len_utf8();
                }
                let rest = &text[end..];
                let next = rest.trim_start().chars().next();
                let spaced = rest.starts_with(char::is_whitespace) || rest.is_empty();
                let goes_on = next.is_some_and(char::is_lowercase);
                if !spaced || goes_on || (letter == '.' && abbreviated(&text[from..at])) {
                    continue;
                }
                end
            }
            '\u{3002}' | '\u{ff01}' | '\u{ff1f}' => at + letter.len_utf8(),
            _ => continue,
        };
        found.push(text[from..end].trim());
        from = end;
    }
    found.push(text[from..].trim());
    found.retain(|sentence| !sentence.is_empty());
    found
}

/// In alphabetical order.
const ABBREVIATIONS: &[&str] = &[
    "al", "approx", "cf", "dr", "e.g", "etc", "fig", "figs", "i.e", "inc", "jr", "mr", "mrs", "ms",
    "pp", "prof", "sr", "st", "vol", "vs",
];

/// True when the last word before a full stop is an initial or a usual abbreviation.
fn abbreviated(before: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let mut letters = word.chars();
    let initial = letters.next().is_some_and(char::is_uppercase) && letters.next().is_none();
    initial || ABBREVIATIONS.binary_search(&word.to_lowercase().as_str()).is_ok()
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
        Document { id: "d".into(), title: title.into(), text: text.into(), ..Document::default() }
    }

    #[track_caller]
    fn check(window: usize, size: u32, overlap: u32, document: &Document, expect: &[&str]) {
        let settings = Rag { chunk_size: size, chunk_overlap: overlap, ..Rag::default() };
        check_settings(window, &settings, document, expect);
    }

    #[track_caller]
    fn check_settings(
        window: usize,
        settings: &Rag,
        document: &Document,
        expect: &[&str],
    ) -> (Vec<Chunk>, u64) {
        let Cut { mut chunks, cut_to_window } =
            cut(&[document], settings, Some(&Letters { window })).unwrap();
        let chunks = chunks.remove(0);
        assert_eq!(chunks.iter().map(|chunk| chunk.text.as_str()).collect::<Vec<_>>(), expect);
        for (n, chunk) in chunks.iter().enumerate() {
            assert_eq!(chunk.id, format!("d#{n}"));
            assert_eq!((chunk.n as usize, chunk.of as usize), (n, chunks.len()));
            assert!(Letters { window }.count_tokens(&chunk.contextual()) <= window);
            assert!(document.text[chunk.start as usize..].starts_with(&chunk.text));
        }
        (chunks, cut_to_window)
    }

    fn chunking(by: ChunkBy, size: u32, overlap: u32) -> Rag {
        Rag { chunk: Some(Chunking { by, size, overlap }), ..Rag::default() }
    }

    #[test]
    fn a_cut_falls_between_sentences_and_else_between_words() {
        let text = "One two. Three four. Five six seven eight nine ten.";
        let expect = ["One two.", "Three four.", "Five six", "seven eight", "nine ten."];
        check(100, 10, 0, &document("", text), &expect);
    }

    #[test]
    fn neighbours_share_the_overlap() {
        check(100, 4, 2, &document("", "aa bb cc dd"), &["aa bb", "bb cc", "cc dd"]);
    }

    #[test]
    fn a_document_that_fits_stays_whole() {
        check(100, 0, 0, &document("T", "One two.\n\nThree."), &["One two.\n\nThree."]);
    }

    #[test]
    fn a_whole_document_beyond_the_window_is_cut_and_not_truncated() {
        check(9, 0, 0, &document("", "aaa bbb ccc ddd"), &["aaa bbb ccc", "ddd"]);
    }

    #[test]
    fn a_title_takes_its_room_in_the_window() {
        check(9, 9, 0, &document("ttt", "aaa bbb ccc"), &["aaa", "bbb", "ccc"]);
    }

    #[test]
    fn a_title_beyond_half_the_window_is_shortened() {
        check(10, 10, 0, &document("tt uu vv ww", "aaa bbb"), &["aaa", "bbb"]);
    }

    #[test]
    fn what_the_window_shortens_is_counted() {
        let count = |window, settings: &Rag, text, expect: &[&str]| {
            check_settings(window, settings, &document("", text), expect).1
        };
        let whole = chunking(ChunkBy::Document, 0, 0);
        assert_eq!(count(9, &whole, "aaa bbb ccc ddd", &["aaa bbb ccc", "ddd"]), 1);
        assert_eq!(count(9, &whole, "aaa bbb", &["aaa bbb"]), 0);
        let large = Rag { chunk_size: 300, ..Rag::default() };
        assert_eq!(count(9, &large, "aaa bbb ccc ddd", &["aaa bbb ccc", "ddd"]), 1);
        let small = Rag { chunk_size: 6, ..Rag::default() };
        assert_eq!(count(9, &small, "aaa bbb ccc ddd", &["aaa bbb", "ccc ddd"]), 0);
    }

    #[test]
    fn sentences_stay_whole_and_are_packed() {
        let text = "One two. Three four! \"Five?\" Six seven eight nine ten.\n\nEnd";
        let one = chunking(ChunkBy::Sentence, 1, 0);
        let each = ["One two.", "Three four!", "\"Five?\"", "Six seven eight nine ten.", "End"];
        check_settings(100, &one, &document("", text), &each);
        let expect = ["One two. Three four!", "\"Five?\"", "Six seven eight nine ten.", "End"];
        check_settings(100, &chunking(ChunkBy::Sentence, 18, 0), &document("", text), &expect);
        let overlapping = chunking(ChunkBy::Sentence, 18, 10);
        let expect =
            ["One two. Three four!", "Three four! \"Five?\"", "Six seven eight nine ten.", "End"];
        check_settings(100, &overlapping, &document("", text), &expect[..]);
    }

    #[test]
    fn a_sentence_beyond_the_window_is_cut_and_counted() {
        let settings = chunking(ChunkBy::Sentence, 50, 0);
        let expect = ["Aa.", "Bbb ccc", "ddd."];
        let (_, count) = check_settings(8, &settings, &document("", "Aa. Bbb ccc ddd."), &expect);
        assert_eq!(count, 1);
    }

    #[test]
    fn an_abbreviation_ends_no_sentence() {
        let text = "Dr. Ona M. Brill et al. wrote it (cf. Fig. 3). It costs 1.50 e.g. in Velm. End";
        let expect = [
            "Dr. Ona M. Brill et al. wrote it (cf. Fig. 3).",
            "It costs 1.50 e.g. in Velm.",
            "End",
        ];
        assert_eq!(sentences(text), expect);
        assert_eq!(sentences("\u{4f60}\u{597d}\u{3002}\u{518d}\u{89c1}").len(), 2);
        assert!(sentences(" \n\n ").is_empty());
    }

    #[test]
    fn markdown_is_cut_at_its_structure_and_knows_its_headings() {
        let text = "# Guide\n\nHello all.\n\n## Setup\n\nRun this now.\n\n### Linux\n\nUse it.\n\n## Use\n\nGo on.";
        let settings = chunking(ChunkBy::Markdown, 20, 0);
        let expect = [
            "# Guide\n\nHello all.",
            "## Setup\n\nRun this now.",
            "### Linux\n\nUse it.",
            "## Use\n\nGo on.",
        ];
        let (chunks, _) = check_settings(200, &settings, &document("Guide", text), &expect);
        let titles: Vec<&str> = chunks.iter().map(|chunk| chunk.title.as_str()).collect();
        assert_eq!(titles, ["Guide", "Guide", "Guide > Setup", "Guide"]);
    }

    #[test]
    fn a_very_long_text_is_cut_in_parts_without_loss() {
        let line = "some words of a line\n";
        let text = line.repeat(3 * PART / line.len());
        let parts = parts(&text);
        assert!(parts.len() >= 3 && parts.iter().all(|part| part.len() <= PART));
        assert_eq!(parts.concat(), text);
        assert!(self::parts(&"x".repeat(PART + 1))[0].len() == PART);
    }

    #[test]
    fn known_abbreviations_are_sorted_for_the_search() {
        assert!(ABBREVIATIONS.is_sorted());
        assert!(abbreviated("see vol") && abbreviated("by J") && !abbreviated("the harbour"));
    }

    #[test]
    fn a_corpus_needs_distinct_ids() {
        let twice = [&document("", "a"), &document("", "b")];
        let error = cut(&twice, &Rag::default(), None).unwrap_err();
        assert_eq!(error.source.to_string(), "two documents have the id `d`");
        let empty = cut(&[&document("", " ")], &Rag::default(), None).unwrap();
        assert_eq!(empty.chunks, [[]]);
    }
}
