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
    of_bytes(&serde_json::to_vec(value).expect("a digested value is plain data"))
}

/// The first 12 characters: enough to name a folder, short enough to read.
pub fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
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
    }
}
