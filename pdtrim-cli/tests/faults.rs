//! What goes wrong around a run: a full disk, a folder that cannot be written, a checkpoint that changes, two
//! processes in one place, a clock that jumps.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../pdtrim-core/tests/support/fake_hub.rs"]
mod fake_hub;
#[path = "support/clock.rs"]
mod jumping;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/times.rs"]
mod times;
#[path = "../../pdtrim-core/tests/support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

#[path = "faults/checkpoint.rs"]
mod checkpoint;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/processes.rs"]
mod processes;

use std::process::{Child, Command, Output};

/// The one error of a command that failed.
fn error(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors = said.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A process that stands still until it is told to go on; killed when it is dropped.
struct Stopped(Child);

impl Stopped {
    fn new(child: Child) -> Self {
        send("-STOP", &child);
        Self(child)
    }

    fn go_on(mut self) -> Output {
        send("-CONT", &self.0);
        let mut output = Output {
            status: self.0.wait().unwrap(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let (stdout, stderr) = (self.0.stdout.take(), self.0.stderr.take());
        if let Some(mut pipe) = stdout {
            std::io::Read::read_to_end(&mut pipe, &mut output.stdout).unwrap();
        }
        if let Some(mut pipe) = stderr {
            std::io::Read::read_to_end(&mut pipe, &mut output.stderr).unwrap();
        }
        output
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Over already, where it went on.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(signal: &str, child: &Child) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status();
    assert!(sent.unwrap().success());
}
