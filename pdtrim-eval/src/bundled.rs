//! The tasks, and our own data, that are part of the binary.

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../datasets/", $path)))),*]
    };
}

const TASKS: &[(&str, &str)] = files![
    "tasks/everyday.toml",
    "tasks/passages.toml",
    "tasks/oneword.toml",
    "tasks/heldout.toml",
    "tasks/piqa.toml",
    "tasks/hellaswag.toml",
    "tasks/arc_easy.toml",
    "tasks/boolq.toml",
    "tasks/winogrande.toml",
    "tasks/wikitext.toml",
    "tasks/wikitext_full.toml",
];

const DATA: &[(&str, &str)] = files![
    "data/everyday.jsonl",
    "data/passages.jsonl",
    "data/oneword.jsonl",
    "calibration/heldout.txt",
];

/// The names of the bundled tasks: first those whose data is bundled too.
pub fn task_names() -> Vec<&'static str> {
    TASKS.iter().map(|(path, _)| name(path)).collect()
}

/// The text of the task file for `task`.
pub(crate) fn task(task: &str) -> Option<&'static str> {
    TASKS
        .iter()
        .find(|(path, _)| name(path) == task)
        .map(|(_, text)| *text)
}

/// The bundled data file `path`, relative to `datasets`.
pub(crate) fn data(path: &str) -> Option<&'static str> {
    DATA.iter()
        .find(|(key, _)| *key == path)
        .map(|(_, text)| *text)
}

fn name(path: &'static str) -> &'static str {
    path.trim_start_matches("tasks/").trim_end_matches(".toml")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, Task};

    #[test]
    fn every_bundled_task_parses_under_its_file_name() {
        for name in task_names() {
            assert_eq!(Task::bundled(name).unwrap().name(), name);
        }
    }

    #[test]
    fn every_task_file_is_bundled() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../datasets/tasks");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let stems: Vec<_> = files
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap())
            .collect();
        let mut names = task_names();
        names.sort_unstable();
        assert_eq!(stems, names);
    }

    #[test]
    fn our_own_sets_need_no_data_folder() {
        for name in ["everyday", "passages", "oneword", "heldout"] {
            let task = Task::bundled(name).unwrap();
            assert!(task.is_bundled());
            Dataset::load(&task, None).unwrap();
        }
    }
}
