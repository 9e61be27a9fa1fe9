//! A time of day that jumps years ahead and years back while a program runs. The clock of the machine stays as it is:
//! `libfaketime` (a package of most systems) stands between the program and it.

#![allow(dead_code, reason = "each test file uses a part of this module")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

/// How far it jumps.
pub(crate) const DAYS: u64 = 3650;
/// How long it stays.
const STAYS: Duration = Duration::from_millis(3);
const LIBRARY: &str = "libfaketimeMT.so.1";

pub(crate) struct JumpingClock {
    library: PathBuf,
    folder: TempDir,
    is_over: Arc<AtomicBool>,
    jumps: Option<JoinHandle<()>>,
}

impl JumpingClock {
    /// None, and says so, where the library is not installed.
    #[allow(clippy::print_stdout, reason = "a skipped test says so")]
    pub(crate) fn start() -> Option<Self> {
        let Some(library) = library() else {
            println!("skipped: {LIBRARY} is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let (now, next) = (folder.path().join("now"), folder.path().join("next"));
        jump(&now, &next, '+');
        let over = Arc::clone(&is_over);
        let jumps = thread::spawn(move || {
            for sign in ['-', '+'].into_iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                jump(&now, &next, sign);
                thread::sleep(STAYS);
            }
        });
        Some(Self {
            library,
            folder,
            is_over,
            jumps: Some(jumps),
        })
    }

    /// Lets the command live by it. Files keep the times that the system gave them.
    pub(crate) fn set(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.folder.path().join("now"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }
}

impl Drop for JumpingClock {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(jumps) = self.jumps.take() {
            // A thread that panicked has said so.
            let _ = jumps.join();
        }
    }
}

/// The file is there whole at any time.
fn jump(now: &Path, next: &Path, sign: char) {
    fs::write(next, format!("{sign}{DAYS}d\n")).unwrap();
    fs::rename(next, now).unwrap();
}

fn library() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].into_iter();
    let found = folders.filter_map(|folder| fs::read_dir(folder).ok());
    let mut below = found.flatten().flatten().map(|entry| entry.path());
    below.find_map(|folder| {
        let in_folder = [folder.join(LIBRARY), folder.join("faketime").join(LIBRARY)];
        in_folder.into_iter().find(|path| path.is_file())
    })
}
