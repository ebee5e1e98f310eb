//! The arrows between crates, and the one owner of every heavy library, checked.

use std::process::Command;

/// Every heavy library and the one crate whose manifest may name it.
const OWNERS: &[(&str, &str)] = &[
    ("async-openai", "bench-openai"),
    ("axum", "bench-view"),
    ("candle-nn", "bench-candle"),
    ("clap", "bench"),
    ("fastembed", "bench-fastembed"),
    ("linfa-logistic", "bench-candle"),
    ("mistralrs", "bench-mistralrs"),
    ("mistralrs-quant", "bench-mistralrs"),
    ("ort", "bench-fastembed"),
    ("plotters", "bench-report"),
    ("polars", "bench-report"),
    ("qdrant-edge", "bench-qdrant"),
    ("qdrant-client", "bench-qdrant"),
    ("resvg", "bench-report"),
    ("rusqlite", "bench-run"),
    ("serde-saphyr", "bench-core"),
];

/// The crates of ours that a crate may name, beside `bench-core`.
const ARROWS: &[(&str, &[&str])] = &[("bench-report", &["bench-stats"])];

fn packages() -> Vec<(String, Vec<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let kept = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
            (name(package), kept.map(name).collect())
        })
        .collect()
}

#[test]
fn a_heavy_library_has_one_owner() {
    let packages = packages();
    for (library, owner) in OWNERS {
        let owners: Vec<&str> = packages
            .iter()
            .filter(|(_, dependencies)| dependencies.iter().any(|dependency| dependency == library))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(owners, [*owner], "who may depend on `{library}`");
    }
}

#[test]
fn every_crate_depends_on_the_core_and_on_no_other_crate_of_ours() {
    for (name, dependencies) in packages() {
        if name == "bench" {
            continue;
        }
        let allowed = ARROWS.iter().find(|(from, _)| *from == name).map_or(&[][..], |(_, to)| to);
        for dependency in dependencies.iter().filter(|dependency| dependency.starts_with("bench-"))
        {
            assert!(
                dependency == "bench-core" || allowed.contains(&dependency.as_str()),
                "`{name}` may not depend on `{dependency}`"
            );
        }
    }
}
