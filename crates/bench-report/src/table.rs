//! A table that is written as CSV and as Parquet: columns in a fixed order, numbers in a fixed form.

use polars::io::parquet::write::KeyValueMetadata;
use polars::prelude::{Column, CsvWriter, DataFrame, ParquetWriter, PolarsResult, SerWriter as _};

use crate::{ReportError, text};

/// One cell. `None` is an empty field in CSV and a null in Parquet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Text(Option<String>),
    Count(Option<i64>),
    Number(Option<f64>),
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Count,
    Number,
}

/// Rows under named columns.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: &'static [(&'static str, Kind)],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: &'static [(&'static str, Kind)]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a cell per column");
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// CSV with a header, six decimals, and no control characters that a terminal would obey.
    pub(crate) fn csv(mut self) -> PolarsResult<Vec<u8>> {
        let mut bytes = Vec::new();
        self.drain_to_csv(&mut bytes)?;
        Ok(bytes)
    }

    /// Moves the rows behind those that are in `bytes` already; the header stands before the first.
    pub(crate) fn drain_to_csv(&mut self, bytes: &mut Vec<u8>) -> PolarsResult<()> {
        let mut frame = self.frame(text::printable)?;
        self.rows.clear();
        let is_first = bytes.is_empty();
        CsvWriter::new(bytes)
            .include_header(is_first)
            .with_float_precision(Some(6))
            .finish(&mut frame)
    }

    pub(crate) fn parquet(&self) -> PolarsResult<Vec<u8>> {
        parquet(self.exact_frame()?, Vec::new())
    }

    /// The rows as they are.
    pub(crate) fn exact_frame(&self) -> PolarsResult<DataFrame> {
        self.frame(str::to_owned)
    }

    fn frame(&self, clean: impl Fn(&str) -> String) -> PolarsResult<DataFrame> {
        let columns = self.columns.iter().enumerate().map(|(at, &(name, kind))| {
            let cells = self.rows.iter().map(|row| &row[at]);
            match kind {
                Kind::Text => column(name, cells.map(|cell| cell.text().map(&clean))),
                Kind::Count => column(name, cells.map(Cell::count)),
                Kind::Number => column(name, cells.map(Cell::number)),
            }
        });
        DataFrame::new(self.rows.len(), columns.collect())
    }
}

impl Cell {
    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { text.as_deref() } else { None }
    }

    fn count(&self) -> Option<i64> {
        if let Self::Count(count) = self { *count } else { None }
    }

    fn number(&self) -> Option<f64> {
        // Adding zero turns -0.0 into 0.0.
        if let Self::Number(number) = self { number.map(|x| x + 0.0) } else { None }
    }
}

/// A column of optional values.
pub(crate) fn column<T>(name: &str, values: impl Iterator<Item = Option<T>>) -> Column
where
    polars::prelude::Series: polars::prelude::NamedFrom<Vec<Option<T>>, [Option<T>]>,
{
    Column::new(name.into(), values.collect::<Vec<_>>())
}

/// Writes a frame, with labels in the file's own metadata.
pub(crate) fn parquet(
    mut frame: DataFrame,
    labels: Vec<(String, String)>,
) -> PolarsResult<Vec<u8>> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_key_value_metadata(Some(KeyValueMetadata::from_static(labels)))
        .finish(&mut frame)?;
    Ok(bytes)
}

/// Writes frames of equal columns one after the other, so that only one is in memory at once; `none`
/// gives the columns where there is no frame.
pub(crate) fn batches(
    mut frames: impl Iterator<Item = Result<DataFrame, ReportError>>,
    none: impl FnOnce() -> Result<DataFrame, ReportError>,
    labels: Vec<(String, String)>,
) -> Result<Vec<u8>, ReportError> {
    let first = frames.next().unwrap_or_else(none)?;
    let Some(second) = frames.next() else { return Ok(parquet(first, labels)?) };
    let mut bytes = Vec::new();
    let schema = first.schema().clone();
    let mut writer = ParquetWriter::new(&mut bytes)
        .with_key_value_metadata(Some(KeyValueMetadata::from_static(labels)))
        .batched(&schema)?;
    for frame in [Ok(first), second].into_iter().chain(frames) {
        writer.write_batch(&frame?)?;
    }
    writer.finish()?;
    Ok(bytes)
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<&str>> for Cell {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::Count(Some(value as i64))
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Count(Some(value as i64))
    }
}

impl From<Option<u64>> for Cell {
    fn from(value: Option<u64>) -> Self {
        Self::Count(value.map(|value| value as i64))
    }
}

impl From<Option<usize>> for Cell {
    fn from(value: Option<usize>) -> Self {
        Self::Count(value.map(|value| value as i64))
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Number(Some(value))
    }
}

impl From<Option<f64>> for Cell {
    fn from(value: Option<f64>) -> Self {
        Self::Number(value)
    }
}

/// A row of cells from values of any kind.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::table::Cell::from($value)),*] };
}
pub(crate) use row;
