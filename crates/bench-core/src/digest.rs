//! Content digests: what makes a cached answer, adapter or index safe to reuse.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The SHA-256 of bytes, in lower-case hexadecimal.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of a value's JSON. Fields are written in declaration order and maps in the order
/// they hold, so use ordered maps in anything that is digested.
///
/// # Panics
/// When the value cannot be JSON (a map with keys that are not strings), which is a bug here.
pub fn of_json<T: Serialize + ?Sized>(value: &T) -> String {
    let mut sink = Sink(Digest::default());
    serde_json::to_writer(&mut sink, value).expect("a digested value is plain data");
    sink.0.hex()
}

/// Digests what is written to it, so that a large corpus is never copied as JSON.
struct Sink(Digest);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The first 12 characters: enough to name a folder, short enough to read.
pub fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A SHA-256 that is fed piece by piece.
#[derive(Clone, Default)]
pub struct Digest(Sha256);

impl Digest {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes, in lower-case hexadecimal.
    pub fn hex(self) -> String {
        hex(&self.0.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_published_one() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_bytes(b"abc"), abc);
        assert_eq!(short(abc), "ba7816bf8f01");
        assert_eq!(of_json(&["a", "b"]), of_bytes(br#"["a","b"]"#));
    }
}
