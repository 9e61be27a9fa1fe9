//! Tasks by name, with their data.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Result, bail};
use pdtrim_core::checkpoint::source::SourceError;
use pdtrim_eval::{DEFAULT_TASKS, Dataset, Error, Folders, HubFile, ScorerError, Task};

use crate::progress::Progress;
use crate::session;

/// The tasks of one name: itself, or a group's.
pub(crate) struct Loaded {
    pub(crate) loaded: Vec<(Task, Dataset)>,
    /// Members of a group whose data is nowhere.
    pub(crate) missing: Vec<String>,
}

/// Every named task, each once; the default ones if none is named.
pub(crate) fn load_all(
    names: &[String],
    data: Option<&Path>,
    offline: bool,
    fewshot: Option<usize>,
    progress: Progress,
) -> Result<Vec<(Task, Dataset)>> {
    // Once the hub has not answered, the other fifty subjects need not wait for it again.
    let unreachable = Cell::new(false);
    let fetch = |file: &HubFile| -> Result<_, ScorerError> {
        let offline = offline || unreachable.get();
        session::fetch_dataset(file, offline, progress).map_err(|error| {
            let down = matches!(
                error.downcast_ref(),
                Some(SourceError::HubUnreachable { .. })
            );
            unreachable.set(unreachable.get() || down);
            error.into()
        })
    };
    let folders = Folders {
        data_dir: data,
        fetch: Some(&fetch),
    };
    let default = DEFAULT_TASKS.map(str::to_owned);
    let names = if names.is_empty() { &default } else { names };
    let mut tasks: Vec<(Task, Dataset)> = Vec::new();
    for name in names {
        let Loaded { loaded, missing } = load_tasks(name, &folders, fewshot)?;
        if !missing.is_empty() {
            let all = loaded.len() + missing.len();
            progress.say(&format!(
                "{name}: {} of {all} tasks; no data for {}",
                loaded.len(),
                missing.join(", ")
            ));
        }
        for (task, data) in loaded {
            if !tasks.iter().any(|(other, _)| other.name() == task.name()) {
                tasks.push((task, data));
            }
        }
    }
    Ok(tasks)
}

/// A bundled task or group by its name, or a task file of the user's. A group needs data for one of its
/// members at least.
pub(crate) fn load_tasks(
    name: &str,
    folders: &Folders<'_>,
    fewshot: Option<usize>,
) -> Result<Loaded> {
    let path = Path::new(name);
    let tasks = if path.extension().is_some() {
        Task::from_file(path)?
    } else {
        Task::bundled_all(name)?
    };
    let is_group = tasks.len() > 1;
    let (mut loaded, mut missing) = (Vec::new(), Vec::new());
    let mut last = None;
    for task in tasks {
        let task = match fewshot {
            // Texts have no examples; a number given for the other tasks does not concern them.
            Some(count) if !task.scores_texts() => task.with_fewshot(count)?,
            _ => task,
        };
        match Dataset::load(&task, folders) {
            Ok(data) => loaded.push((task, data)),
            Err(error @ (Error::DataNotFound { .. } | Error::Hub { .. })) if is_group => {
                missing.push(task.name().to_owned());
                last = Some(error);
            }
            Err(error) => bail!(error),
        }
    }
    match last {
        Some(error) if loaded.is_empty() => bail!(error),
        _ => Ok(Loaded { loaded, missing }),
    }
}
