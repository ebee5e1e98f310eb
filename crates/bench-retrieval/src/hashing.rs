//! An embedder without a model: terms and their letter triples hashed into a vector. It finds
//! texts that share words, so that a whole pipeline can be tested on a machine that has nothing.

use bench_core::backend::{BackendError, Embedder, Purpose};
use bench_core::retrieval::normalise;

use crate::text::Reader;

/// Hashes text into vectors of a chosen dimension.
#[derive(Clone, Debug)]
pub struct HashingEmbedder {
    id: String,
    dimension: usize,
}

impl HashingEmbedder {
    /// Vectors of `dimension` numbers; 256 keeps a small vocabulary apart.
    ///
    /// # Panics
    /// When the dimension is 0.
    pub fn new(dimension: usize) -> Self {
        assert!(dimension > 0, "a vector needs a dimension");
        Self { id: format!("hashing-{dimension}-1"), dimension }
    }

    fn vector(&self, reader: &mut Reader, text: &str) -> Vec<f32> {
        let mut vector = vec![0.0; self.dimension];
        let mut add = |feature: &[char], weight: f32| {
            let hash = fnv(feature);
            let sign = if hash >> 63 == 0 { weight } else { -weight };
            vector[(hash % self.dimension as u64) as usize] += sign;
        };
        for term in reader.terms(text) {
            let letters: Vec<char> = format!("^{term}$").chars().collect();
            add(&letters, 1.0);
            let triples = letters.windows(3);
            let weight = 0.5 / (triples.len() as f32).sqrt();
            triples.for_each(|triple| add(triple, weight));
        }
        if vector.iter().all(|x| *x == 0.0) {
            vector[0] = 1.0;
        }
        normalise(&mut vector);
        vector
    }
}

impl Embedder for HashingEmbedder {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn window(&self) -> usize {
        usize::MAX
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
        let mut reader = Reader::default();
        Ok(texts.iter().map(|text| self.vector(&mut reader, text)).collect())
    }
}

/// FNV-1a over code points, with a final mix so that the low bits depend on all of them.
fn fnv(letters: &[char]) -> u64 {
    let hash = letters.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, letter| {
        (hash ^ u64::from(u32::from(*letter))).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn similarity(a: &str, b: &str) -> f32 {
        let texts = [a.to_owned(), b.to_owned()];
        let vectors = HashingEmbedder::new(256).embed(Purpose::Passage, &texts).unwrap();
        vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn vectors_have_unit_length_and_the_same_text_has_the_same_vector() {
        for text in ["The harbour master of Velm", "", "the of"] {
            assert!((similarity(text, text) - 1.0).abs() < 1e-5, "{text}");
        }
    }

    #[test]
    fn common_words_are_closer_than_common_letters_than_nothing() {
        let word = similarity("the harbour of Velm", "who built the harbour");
        let letters = similarity("the harbours", "harboured");
        let nothing = similarity("the harbour of Velm", "quick silver fox");
        assert!(
            word > 0.4 && letters > nothing && nothing.abs() < 0.3,
            "{word} {letters} {nothing}"
        );
    }
}
