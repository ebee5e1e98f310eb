//! CSV: a document a row, named by its columns `id`, `title` and `text`; the others are meta data.

use std::collections::BTreeMap;

use bench_core::dataset::Document;

use super::{Content, Failure, value};

/// Rows without an id get the file's name and their line.
pub(super) fn read(
    text: &str,
    delimiter: u8,
    file: &str,
    digest: String,
) -> Result<Content, Failure> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let columns: Vec<String> = match reader.headers() {
        Ok(headers) => headers.iter().map(|name| name.trim().to_owned()).collect(),
        Err(error) => return Err(Failure::Rows(vec![error.to_string()])),
    };
    if !columns.iter().any(|name| name == "text") {
        let found = columns.join(", ");
        let problem = format!("line 1: a column `text` is needed; the columns are: {found}");
        return Err(Failure::Rows(vec![problem]));
    }
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for row in reader.records() {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let line = row.position().map_or(0, csv::Position::line);
        let mut document = Document::default();
        let mut meta = BTreeMap::new();
        for (name, cell) in columns.iter().zip(&row) {
            match name.as_str() {
                "id" => cell.trim().clone_into(&mut document.id),
                "title" => cell.trim().clone_into(&mut document.title),
                "text" => cell.trim().clone_into(&mut document.text),
                _ if cell.trim().is_empty() => {}
                _ => drop(meta.insert(name.clone(), value(cell))),
            }
        }
        if document.text.is_empty() {
            problems.push(format!("line {line}: a document has no text"));
        }
        if document.id.is_empty() {
            document.id = format!("{file}:{line}");
        }
        documents.push(Document { meta, ..document });
    }
    if problems.is_empty() {
        Ok(Content { documents, digest })
    } else {
        Err(Failure::Rows(problems))
    }
}
