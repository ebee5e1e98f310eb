//! Plain text, read a piece at a time: a large binary file is given up at its first piece.

use std::io::{BufReader, Read};
use std::path::Path;

use fs_err::File;

use super::Failure;

const PIECE: usize = 1 << 20;

/// A file's text and SHA-256. Nothing beside the text and one piece is held in memory.
pub(super) fn read(path: &Path) -> Result<(String, String), Failure> {
    let file = File::open(path)?;
    let mut text = String::with_capacity(file.metadata()?.len() as usize);
    let mut file = BufReader::with_capacity(PIECE, file);
    let mut digest = bench_core::digest::Digest::default();
    let mut piece = vec![0; PIECE];
    let mut pending = 0;
    loop {
        let read = file.read(&mut piece[pending..])?;
        digest.update(&piece[pending..pending + read]);
        let bytes = &piece[..pending + read];
        if bytes.contains(&0) {
            return Err(Failure::NotText("binary, not text".into()));
        }
        let good = match std::str::from_utf8(bytes) {
            Ok(good) => good,
            // A letter of several bytes that the next piece completes.
            Err(error) if error.error_len().is_none() && read > 0 => {
                std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => {
                let at = text.len() + error.valid_up_to();
                return Err(Failure::NotText(format!("not UTF-8 (byte {at})")));
            }
        };
        text.push_str(good);
        let (used, held) = (good.len(), bytes.len());
        if read == 0 {
            break;
        }
        piece.copy_within(used..held, 0);
        pending = held - used;
    }
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok((text, digest.hex()))
}
