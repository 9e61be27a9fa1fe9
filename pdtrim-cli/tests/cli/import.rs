//! `pdtrim import`.

use pdtrim_core::plan::Plan;

use super::{Place, read, said};

fn import<'w>(sources: &[&'w str], more: &[&'w str]) -> Vec<&'w str> {
    [
        &["import"],
        sources,
        &["--model", "model", "--out", "new.toml"],
        more,
    ]
    .concat()
}

/// The removed blocks of the plan that an import wrote.
fn removed(place: &Place) -> [Vec<usize>; 2] {
    let plan = Plan::read(&place.path("new.toml")).unwrap();
    let removed = plan.removed();
    [removed.prefill.to_indices(), removed.decode.to_indices()]
}

/// A plan of the model, searched.
fn searched(place: &Place) -> Plan {
    said(&mut place.trim(&["--limit", "1", "--tasks", "heldout"]));
    Plan::read(&place.path("out/plan.toml")).unwrap()
}

#[test]
fn a_list_is_for_both_stages_or_for_the_one_that_is_named() {
    let place = Place::new();
    place.file("list.txt", "[3, 1]");
    let expected = [
        ("unified", [vec![1, 3], vec![1, 3]]),
        ("decode", [vec![], vec![1, 3]]),
        ("prefill", [vec![1, 3], vec![]]),
    ];
    for (stage, blocks) in expected {
        let words = import(&["list.txt"], &["--stage", stage, "--force"]);
        let table = place.stdout(&words);
        assert!(table.contains("without blocks 1,3"), "{table}");
        assert_eq!(removed(&place), blocks, "{stage}");
        // The plan runs on the model that it names.
        let words = [
            "generate",
            "w3 w4",
            "--plan",
            "new.toml",
            "--model",
            "model",
            "--max-new-tokens",
            "2",
        ];
        place.stdout(&words);
    }
    place.stdout(&import(&["list.txt"], &["--force"]));
    assert_eq!(removed(&place), [vec![1, 3], vec![1, 3]]);
    let plan = Plan::read(&place.path("new.toml")).unwrap();
    assert_eq!(plan.file().model.name, "model");
    assert!(plan.file().model.hash.starts_with("sha256:"));
}

#[test]
fn a_mergekit_file_names_its_model_and_leaves_blocks_out() {
    let place = Place::new();
    let merge = "merge_method: passthrough\nslices:\n- sources:\n  - {model: org/name, layer_range: [0, 2]}\n\
        - sources:\n  - {model: org/name, layer_range: [3, 5]}\n";
    place.file("merge.yaml", merge);
    let (_, notes) = said(&mut place.pdtrim(&import(&["merge.yaml"], &["--stage", "decode"])));
    assert!(notes.contains("org/name"), "{notes}");
    assert_eq!(removed(&place), [vec![], vec![2]]);
}

#[test]
fn exported_stages_give_the_plan_that_they_were_made_from() {
    let place = Place::new();
    let plan = searched(&place);
    for stage in ["prefill", "decode"] {
        place.stdout(&["export", "out/plan.toml", "--stage", stage, "--out", stage]);
    }
    for folders in [["prefill", "decode"], ["decode", "prefill"]] {
        place.stdout(&import(&folders, &["--force"]));
        let made = Plan::read(&place.path("new.toml")).unwrap();
        assert_eq!(made.removed(), plan.removed());
        assert_eq!(made.kv(), plan.kv());
        assert_eq!(made.file().method, plan.file().method);
        assert_eq!(made.file().model.hash, plan.file().model.hash);
    }
    place.stdout(&import(&["decode"], &["--force"]));
    assert_eq!(
        removed(&place),
        [vec![], plan.removed().decode.to_indices()]
    );

    let error = place.failure(&import(&["decode", "decode"], &["--force"]));
    assert!(error.contains("both decode stages"), "{error}");
    let error = place.failure(&import(&["decode"], &["--force", "--stage", "decode"]));
    assert!(error.contains("--stage is for a list"), "{error}");
    let config = read(&place.path("decode/config.json"));
    let hash = &plan.file().model.hash;
    assert!(config.contains(hash.as_str()));
    place.file(
        "decode/config.json",
        config.replace(hash.as_str(), "sha256:0"),
    );
    let error = place.failure(&[
        "import",
        "decode",
        "--model",
        "model",
        "--out",
        "other.toml",
    ]);
    assert!(
        error.contains("the plan is for model model (sha256:0)"),
        "{error}"
    );
    assert!(!place.path("other.toml").exists());
}

#[test]
fn a_run_folders_plan_is_copied_with_the_files_that_it_needs() {
    let place = Place::new();
    said(&mut place.trim(&["--limit", "1", "--tasks", "heldout", "--repair", "linear"]));
    let words = [
        "import",
        "out",
        "--model",
        "model",
        "--out",
        "copy/plan.toml",
    ];
    place.stdout(&words);
    assert_eq!(
        read(&place.path("copy/plan.toml")),
        read(&place.path("out/plan.toml"))
    );
    let weights =
        |folder: &str| std::fs::read(place.path(folder).join("repair.safetensors")).unwrap();
    assert_eq!(weights("copy"), weights("out"));
    let error = place.failure(&words);
    assert!(error.contains("--force"), "{error}");

    for stage in ["prefill", "decode"] {
        place.stdout(&["export", "out/plan.toml", "--stage", stage, "--out", stage]);
    }
    let (_, notes) = said(&mut place.pdtrim(&import(&["prefill", "decode"], &[])));
    assert!(notes.contains("without a repair"), "{notes}");
    let made = Plan::read(&place.path("new.toml")).unwrap();
    let plan = Plan::read(&place.path("out/plan.toml")).unwrap();
    assert_eq!(made.removed(), plan.removed());
}

#[test]
fn what_is_no_source_is_refused_and_nothing_is_written() {
    let place = Place::new();
    place.file("list.txt", "[9]");
    place.file("all.txt", "[0, 1, 2, 3, 4]");
    place.file("merge.yml", "merge_method: slerp\n");
    for (source, word) in [
        ("list.txt", "block 9"),
        ("all.txt", "at least one must stay"),
        ("merge.yml", "merge_method"),
        ("nothing.txt", "no such file"),
        ("model", "`pdtrim`"),
        (".", "config.json"),
    ] {
        let error = place.failure(&import(&[source], &[]));
        assert!(error.contains(word), "{source}: {error}");
    }
    let error = place.failure(&import(&["list.txt", "model"], &[]));
    assert!(error.contains("two sources"), "{error}");
    assert!(!place.path("new.toml").exists());
    place.usage(&["import", "--out", "new.toml"]);
    place.usage(&["import", "list.txt"]);
}
