//! Two processes in one place.

use std::fs;
use std::process::Stdio;

use crate::checkpoint::stopped_early;
use crate::scene::{Case, Scene, different, files, finished, snapshot, strays};

#[test]
fn of_two_runs_in_one_folder_the_second_is_refused_and_the_first_goes_on() {
    let scene = Scene::new();
    for name in [
        "trim",
        "kv search",
        "compare",
        "sensitivity",
        "eval",
        "kv needle",
    ] {
        let case = Case::named(name);
        let reference = scene.reference(case);
        let folder = scene.fresh("shared", case);
        let first = stopped_early(&scene, case, &folder);
        for force in [&[][..], &["--force"]] {
            let second = scene.of(case, &folder).args(force).output().unwrap();
            let error = crate::error(&second);
            assert!(
                error.contains("folder out") && error.contains("another pdtrim is at work"),
                "{name}: {error}"
            );
        }
        let output = first.go_on();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        let found = files(&folder);
        assert_eq!(different(&found, &reference), [""; 0], "{name}");
        assert_eq!(strays(&found, &reference), [""; 0], "{name}");
    }
}

#[test]
fn of_two_exports_to_one_folder_one_is_there_whole() {
    let scene = Scene::new();
    let case = Case::named("export");
    let reference = scene.reference(case);
    let folder = scene.fresh("shared", case);
    let mut commands = [scene.of(case, &folder), scene.of(case, &folder)];
    let children = commands.each_mut().map(|command| {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    let outputs = children.map(|child| child.wait_with_output().unwrap());
    let done = outputs.iter().filter(|output| output.status.success());
    assert!(done.count() > 0, "{outputs:?}");
    for output in outputs.iter().filter(|output| !output.status.success()) {
        let error = crate::error(output);
        assert!(error.contains("out"), "{error}");
    }
    let found = files(&folder);
    assert_eq!(different(&found, &reference), [""; 0]);
    assert_eq!(strays(&found, &reference), [""; 0]);
}

#[test]
fn two_pulls_at_once_both_have_the_model() {
    let scene = Scene::new();
    let case = Case::named("pull");
    let folder = scene.fresh("shared", case);
    let mut commands = [0, 1, 2].map(|_| scene.of(case, &folder));
    let children = commands.each_mut().map(|command| {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    let outputs = children.map(|child| child.wait_with_output().unwrap());
    for output in &outputs {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(output.stdout, outputs[0].stdout);
    }
    let weights = "model.safetensors";
    let expected = fs::read(scene.path("bytes").join(weights)).unwrap();
    assert_eq!(fs::read(snapshot(&folder).join(weights)).unwrap(), expected);
    let blobs = folder.join("out/hub/models--org--name/blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 3);
    finished(&mut scene.of(case, &folder));
}
