//! PDF: the text of plain layouts.

use std::panic;
use std::sync::Once;

const THREAD: &str = "bench-pdf";

/// The text of all pages, or in words why there is none. A damaged file can make the reader panic
/// or recurse deeply, so it works on a thread of its own with a large stack.
pub(super) fn text(bytes: &[u8]) -> Result<String, String> {
    silence();
    let found = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name(THREAD.into()).stack_size(64 << 20);
        let read = || pdf_extract::extract_text_from_mem(bytes).map_err(|error| explain(&error));
        builder.spawn_scoped(scope, read).map(std::thread::ScopedJoinHandle::join)
    });
    match found {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => Err("a damaged PDF".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn explain(error: &pdf_extract::OutputError) -> String {
    let message = error.to_string();
    if message.to_lowercase().contains("password") || message.to_lowercase().contains("decrypt") {
        return "locked by a password".into();
    }
    format!("a damaged PDF: {message}")
}

/// A panic of the reader is a fact about a file and no message for the screen.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(THREAD) {
                others(info);
            }
        }));
    });
}
