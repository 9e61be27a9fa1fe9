//! The tasks, and our own data, that are part of the binary.

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../datasets/", $path)))),*]
    };
}

const TASKS: &[(&str, &str)] = files![
    "tasks/everyday.toml",
    "tasks/passages.toml",
    "tasks/oneword.toml",
    "tasks/heldout.toml",
    "tasks/needle.toml",
    "tasks/arc_challenge.toml",
    "tasks/arc_easy.toml",
    "tasks/boolq.toml",
    "tasks/commonsense_qa.toml",
    "tasks/copa.toml",
    "tasks/hellaswag.toml",
    "tasks/lambada_openai.toml",
    "tasks/mmlu.toml",
    "tasks/openbookqa.toml",
    "tasks/piqa.toml",
    "tasks/race.toml",
    "tasks/rte.toml",
    "tasks/truthfulqa_mc1.toml",
    "tasks/wikitext.toml",
    "tasks/wikitext_pd.toml",
    "tasks/wikitext_windows.toml",
    "tasks/winogrande.toml",
    "tasks/wsc.toml",
];

/// Tasks that a run without any named scores: their data is bundled, and they take seconds each.
pub const DEFAULT_TASKS: [&str; 4] = ["everyday", "passages", "oneword", "heldout"];

const DATA: &[(&str, &str)] = files![
    "data/everyday.jsonl",
    "data/passages.jsonl",
    "data/oneword.jsonl",
    "data/needle.jsonl",
    "calibration/heldout.txt",
    "calibration/prose.txt",
];

/// The names of the bundled tasks: first those whose data is bundled too.
///
/// ```
/// assert!(pdtrim_eval::task_names().contains(&"everyday"));
/// ```
pub fn task_names() -> Vec<&'static str> {
    TASKS.iter().map(|(path, _)| name(path)).collect()
}

/// The task file called `task`, or else that of the family which `task` may be a member or a group of:
/// its name and its text.
pub(crate) fn task_file(task: &str) -> Option<(&'static str, &'static str)> {
    let own = |(path, _): &&(&'static str, &str)| name(path) == task;
    let family = |(path, text): &&(&'static str, &str)| {
        let rest = task.strip_prefix(name(path));
        rest.is_some_and(|rest| rest.starts_with('_')) && text.contains("[subjects]")
    };
    let found = TASKS.iter().find(own);
    let (path, text) = found.or_else(|| TASKS.iter().find(family))?;
    Some((name(path), text))
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
    use crate::{Dataset, Folders, Task};

    #[test]
    fn every_bundled_task_parses_under_its_file_name() {
        for name in task_names() {
            for task in Task::bundled_all(name).unwrap() {
                let family = task.groups().first().map(String::as_str);
                assert_eq!(family.unwrap_or(task.name()), name);
            }
        }
    }

    #[test]
    fn members_and_groups_of_a_family_are_found_by_name() {
        let names = |name: &str| -> Vec<String> {
            let tasks = Task::bundled_all(name).unwrap();
            tasks.iter().map(|task| task.name().to_owned()).collect()
        };
        assert_eq!(names("mmlu").len(), 57);
        assert_eq!(names("mmlu_astronomy"), ["mmlu_astronomy"]);
        assert_eq!(names("mmlu_stem").len(), 19);
        assert_eq!(names("race"), ["race_high", "race_middle"]);
        assert!(matches!(
            Task::bundled("mmlu").unwrap_err(),
            crate::Error::IsGroup { tasks: 57, .. }
        ));
        let error = Task::bundled("mmlu_astronmy").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown task `mmlu_astronmy`; did you mean `mmlu_astronomy`?"
        );
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
        for name in DEFAULT_TASKS.into_iter().chain(["needle"]) {
            let task = Task::bundled(name).unwrap();
            assert!(task.is_bundled());
            Dataset::load(&task, &Folders::default()).unwrap();
        }
    }
}
