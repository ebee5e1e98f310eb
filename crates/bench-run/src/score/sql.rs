//! `sql_execution`: whether a query returns the reference query's rows.
//!
//! A candidate is written by a model, so it runs with nothing but the right to read one database:
//! opened read-only, every action but selecting and reading denied before it runs, instructions,
//! seconds, rows and bytes limited.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bench_core::backend::BackendError;
use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags};

use super::{Scorer, Unbuildable, judged, unfenced, wrong};

/// Rows a query may return.
const MAX_ROWS: usize = 10_000;
/// Bytes of text and blobs that its rows may hold.
const MAX_BYTES: usize = 64 << 20;
/// Instructions of `SQLite`'s virtual machine that it may take: a limit that is the same everywhere.
const MAX_INSTRUCTIONS: u64 = 50_000_000;
/// The limit for what instructions do not count.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Runs candidate and reference on the sample's database.
pub(super) struct SqlExecution {
    database: String,
    folder: PathBuf,
}

impl SqlExecution {
    pub(super) fn new(database: &str, folder: &Path) -> Result<Self, String> {
        let fixed = database.split("{db}").next().unwrap_or(database);
        // The part before the placeholder may end within a file name.
        let path = folder.join(fixed);
        let home = if fixed.is_empty() || fixed.ends_with('/') {
            path.as_path()
        } else {
            path.parent().unwrap_or(folder)
        };
        // A bare name has an empty parent.
        let home = if home.as_os_str().is_empty() { Path::new(".") } else { home };
        fs_err::read_dir(home).map_err(|error| {
            format!("sql_execution: the folder of `{database}` cannot be read: {error}")
        })?;
        Ok(Self { database: database.to_owned(), folder: folder.to_owned() })
    }
}

#[async_trait]
impl Scorer for SqlExecution {
    fn name(&self) -> &'static str {
        "sql_execution"
    }

    async fn score(&self, sample: &Sample, answer: &str) -> Result<Verdict, BackendError> {
        if let Some(problem) = problem(sample, &self.database) {
            return Ok(Verdict::unscored(problem));
        }
        let name = sample.meta_text("db").unwrap_or_default();
        let path = self.folder.join(self.database.replace("{db}", &name));
        let references: Vec<String> = sample.accepted().map(str::to_owned).collect();
        let ordered = sample.meta.get("ordered").and_then(serde_json::Value::as_bool);
        let candidate = unfenced(answer).to_owned();
        let verdict =
            tokio::task::spawn_blocking(move || verdict(&path, &references, &candidate, ordered));
        Ok(verdict
            .await
            .unwrap_or_else(|panic| Verdict::unscored(format!("the query broke off: {panic}"))))
    }
}

pub(super) fn problem(sample: &Sample, database: &str) -> Option<String> {
    if database.contains("{db}") && sample.meta_text("db").is_none() {
        return Some("no `meta.db` to put in place of `{db}`".into());
    }
    (!selects(&outline(&sample.reference)))
        .then(|| format!("the reference `{}` is no SELECT", sample.reference))
}

/// The databases of the samples that cannot be read, each with the reason: problems where none can,
/// so that the setting is wrong; else warnings, because their samples are unscored and the run goes on.
pub(super) fn unreadable(database: &str, folder: &Path, samples: &[Sample]) -> Unbuildable {
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    if database.contains("{db}") {
        for name in samples.iter().filter_map(|sample| sample.meta_text("db")) {
            *asked.entry(database.replace("{db}", &name)).or_default() += 1;
        }
    } else {
        asked.insert(database.to_owned(), samples.len());
    }
    let problem = |name: &str| {
        let read = open(&folder.join(name)).and_then(|mut connection| {
            // The first query looks into the file.
            match rows(&mut connection, "SELECT count(*) FROM sqlite_master") {
                Ok(_) => Ok(()),
                Err(Failure::Query(problem) | Failure::Database(problem)) => Err(problem),
            }
        });
        read.err().map(|problem| format!("sql_execution: database `{name}`: {problem}"))
    };
    let found: Vec<(usize, String)> =
        asked.iter().filter_map(|(name, n)| Some((*n, problem(name)?))).collect();
    if found.len() == asked.len() {
        let problems = found.into_iter().map(|(_, problem)| problem).collect();
        return Unbuildable { problems, ..Unbuildable::default() };
    }
    let unscored = |(n, problem)| format!("{problem}; samples that it leaves unscored: {n}");
    Unbuildable { warnings: found.into_iter().map(unscored).collect(), ..Unbuildable::default() }
}

fn verdict(path: &Path, references: &[String], candidate: &str, ordered: Option<bool>) -> Verdict {
    let unscored =
        |problem: String| Verdict::unscored(format!("database `{}`: {problem}", path.display()));
    let mut connection = match open(path) {
        Ok(connection) => connection,
        Err(problem) => return unscored(problem),
    };
    let mut expected = Vec::new();
    for reference in references {
        match rows(&mut connection, reference) {
            Ok(rows) => {
                expected.push((rows, ordered.unwrap_or_else(|| orders(&outline(reference)))));
            }
            Err(Failure::Query(problem) | Failure::Database(problem)) => {
                return unscored(format!("the reference query: {problem}"));
            }
        }
    }
    if !selects(&outline(candidate)) {
        return wrong("no single SELECT; not run");
    }
    match rows(&mut connection, candidate) {
        Ok(rows) => {
            judged(expected.iter().any(|(expected, ordered)| equal(&rows, expected, *ordered)))
        }
        Err(Failure::Query(problem)) => wrong(problem),
        Err(Failure::Database(problem)) => unscored(problem),
    }
}

/// Why there are no rows.
enum Failure {
    /// The query's fault.
    Query(String),
    /// The database's.
    Database(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::AuthorizationForStatementDenied) => {
                Self::Query("it does more than select; not run".into())
            }
            Some(ErrorCode::OperationInterrupted) => {
                Self::Query("it takes too long and was stopped".into())
            }
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::DatabaseLocked
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::SystemIoFailure,
            ) => Self::Database(error.to_string()),
            _ if matches!(error, Error::MultipleStatement) => {
                Self::Query("several statements; not run".into())
            }
            _ => Self::Query(error.to_string()),
        }
    }
}

fn open(path: &Path) -> Result<Connection, String> {
    if !path.is_file() {
        return Err("no such file".into());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let guarded = || -> rusqlite::Result<Connection> {
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, 10 << 20)?;
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
            AuthAction::Select
            | AuthAction::Read { .. }
            | AuthAction::Function { .. }
            | AuthAction::Recursive => Authorization::Allow,
            _ => Authorization::Deny,
        }))?;
        Ok(connection)
    };
    guarded().map_err(|error| error.to_string())
}

/// One row, each cell written so that equal values are equal texts.
type Row = Vec<String>;

fn rows(connection: &mut Connection, sql: &str) -> Result<Vec<Row>, Failure> {
    const STRIDE: u16 = 1000;
    let started = Instant::now();
    let mut instructions = 0;
    let over = move || {
        instructions += u64::from(STRIDE);
        instructions > MAX_INSTRUCTIONS || started.elapsed() > MAX_TIME
    };
    connection.progress_handler(STRIDE.into(), Some(over))?;
    let mut statement = connection.prepare(sql)?;
    if !statement.readonly() {
        return Err(Failure::Query("it writes; not run".into()));
    }
    let columns = statement.column_count();
    let mut found = statement.raw_query();
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let cells: Row =
            (0..columns).map(|column| row.get_ref(column).map(cell)).collect::<Result<_, _>>()?;
        bytes += cells.iter().map(String::len).sum::<usize>();
        rows.push(cells);
        if rows.len() > MAX_ROWS || bytes > MAX_BYTES {
            return Err(Failure::Query("it returns too much and was stopped".into()));
        }
    }
    Ok(rows)
}

/// Numbers to 10 significant digits, whatever their type: sums depend on their order.
fn cell(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(number) if number.unsigned_abs() < 1 << 33 => real(number as f64),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => real(number),
        ValueRef::Text(text) => format!("'{}", String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => format!("x{bytes:?}"),
    }
}

fn real(number: f64) -> String {
    // Adding zero takes the sign off a negative zero.
    format!("{:.9e}", number + 0.0)
}

fn equal(ours: &[Row], theirs: &[Row], ordered: bool) -> bool {
    if ordered {
        return ours == theirs;
    }
    let sorted = |rows: &[Row]| {
        let mut rows = rows.to_vec();
        rows.sort();
        rows
    };
    ours.len() == theirs.len() && sorted(ours) == sorted(theirs)
}

fn selects(outline: &str) -> bool {
    matches!(outline.split_whitespace().next(), Some("select" | "with"))
}

fn orders(outline: &str) -> bool {
    let words: Vec<&str> = outline.split_whitespace().collect();
    words.windows(2).any(|pair| pair == ["order", "by"])
}

/// The words of a statement in lower case, without comments, literals and everything in brackets.
fn outline(sql: &str) -> String {
    let mut outline = String::new();
    let mut depth = 0_usize;
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let end = match c {
            '\'' | '"' | '`' => rest[1..].find(c).map(|place| place + 2),
            '[' => rest.find(']').map(|place| place + 1),
            '-' if rest.starts_with("--") => rest.find('\n'),
            '/' if rest.starts_with("/*") => rest.find("*/").map(|place| place + 2),
            _ => {
                match c {
                    '(' => depth += 1,
                    ')' => depth = depth.saturating_sub(1),
                    _ if depth == 0 && (c.is_alphanumeric() || c == '_') => {
                        outline.extend(c.to_lowercase());
                        rest = &rest[c.len_utf8()..];
                        continue;
                    }
                    _ => {}
                }
                Some(c.len_utf8())
            }
        };
        outline.push(' ');
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    outline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, is_select: bool, is_ordered: bool) {
        let outline = outline(sql);
        assert_eq!((selects(&outline), orders(&outline)), (is_select, is_ordered), "{outline}");
    }

    #[test]
    fn a_bare_name_lies_in_the_working_directory() {
        assert!(SqlExecution::new("nodb.sqlite", Path::new("")).is_ok());
        let expect = ["sql_execution: database `nodb.sqlite`: no such file"];
        assert_eq!(unreadable("nodb.sqlite", Path::new(""), &[]).problems, expect);
    }

    #[test]
    fn a_file_that_is_no_database_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("a.sqlite"), "not a database ".repeat(100)).unwrap();
        let of = |name: &str| Sample {
            meta: BTreeMap::from([("db".into(), name.into())]),
            ..Sample::default()
        };
        let found = unreadable("{db}.sqlite", folder.path(), &[of("a")]);
        assert!(found.problems.len() == 1 && found.warnings.is_empty(), "{found:?}");
        assert!(found.problems[0].contains("`a.sqlite`"), "{found:?}");
        // Beside one that can be read, its samples alone are lost.
        let good = Connection::open(folder.path().join("b.sqlite")).unwrap();
        good.execute_batch("CREATE TABLE t (x)").unwrap();
        let samples = [of("a"), of("b"), of("a"), of("absent")];
        let found = unreadable("{db}.sqlite", folder.path(), &samples);
        assert!(found.problems.is_empty(), "{found:?}");
        assert!(found.warnings[0].ends_with("samples that it leaves unscored: 2"), "{found:?}");
        assert!(found.warnings[1].contains("`absent.sqlite`: no such file"), "{found:?}");
    }

    #[test]
    fn the_outermost_query_tells_the_kind_and_the_order() {
        check("-- best\nSELECT a FROM t ORDER\n BY a", true, true);
        check("select a from (select b from t order by b limit 3)", true, false);
        check("SELECT 'order by' FROM t", true, false);
        check("SELECT \"order\" AS x, [by] FROM t", true, false);
        check("WITH x AS (SELECT 1) SELECT * FROM x", true, false);
        check("/* SELECT */ DELETE FROM t", false, false);
        check("EXPLAIN SELECT 1", false, false);
        check("PRAGMA user_version", false, false);
        check("", false, false);
        check("'unclosed", false, false);
    }
}
