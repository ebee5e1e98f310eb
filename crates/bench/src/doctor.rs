//! `bench doctor`: what this machine has.

use std::fmt::Write as _;

use bench_core::manifest::Machine;
use sysinfo::{Disks, System};

use crate::catalog::CATALOG;
use crate::models::Cache;

/// The machine, for the manifest.
pub(crate) fn machine() -> Machine {
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_all();
    let processor =
        system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
    Machine {
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        processor: if processor.is_empty() { "unknown".into() } else { processor },
        cores: system.cpus().len() as u64,
        memory_bytes: system.total_memory(),
        accelerator: accelerator().unwrap_or_else(|| "none".into()),
    }
}

/// The first CUDA device, when this build can use one.
fn accelerator() -> Option<String> {
    let output = std::process::Command::new("nvidia-smi")
        .args(["--query-gpu=name,memory.total", "--format=csv,noheader"])
        .output()
        .ok()?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

/// Keys that endpoints commonly read; shown as present or not, never their value.
const KEYS: &[&str] = &["OPENAI_API_KEY", "OPENROUTER_API_KEY", "HF_TOKEN", "QDRANT_API_KEY"];

/// Everything a user asks about when something does not work.
pub(crate) fn examine(cache: &Cache) -> String {
    let machine = machine();
    let mut system = System::new();
    system.refresh_memory();
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<14} {value}").ok();
    };
    line("program", format!("bench {} ({})", env!("CARGO_PKG_VERSION"), machine.platform));
    line("processor", format!("{}, {} cores", machine.processor, machine.cores));
    line("instructions", instructions());
    let memory =
        format!("{:.1} GiB, {:.1} free", gib(machine.memory_bytes), gib(system.available_memory()));
    line("memory", memory);
    let built =
        if cfg!(feature = "cuda") { "used" } else { "not used: this build has no feature `cuda`" };
    line(
        "accelerator",
        if machine.accelerator == "none" {
            "none".into()
        } else {
            format!("{} ({built})", machine.accelerator)
        },
    );
    line("cache", cache.folder().display().to_string());
    let disks = Disks::new_with_refreshed_list();
    let near = disks
        .iter()
        .filter(|disk| cache.folder().starts_with(disk.mount_point()))
        .max_by_key(|disk| disk.mount_point().as_os_str().len());
    if let Some(disk) = near {
        line("disk", format!("{:.1} GiB free for the cache", gib(disk.available_space())));
    }
    line("pip", pip());
    for entry in CATALOG {
        let state = if cache.has(entry) { "here" } else { "not here: `bench models pull` gets it" };
        line(entry.name, state.into());
    }
    for key in KEYS {
        let state = if std::env::var_os(key).is_some_and(|value| !value.is_empty()) {
            "set"
        } else {
            "not set"
        };
        line(key, state.into());
    }
    text
}

fn pip() -> String {
    let python = std::env::var("BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
    match std::process::Command::new(&python).args(["-m", "pip", "--version"]).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.split(" from ").next().unwrap_or("here").trim().to_owned()
        }
        _ => format!("not here: `{python} -m pip` does not start; catalogue models cannot be got"),
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> String {
    let features = [
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("FMA", std::is_x86_feature_detected!("fma")),
        ("AVX-512", std::is_x86_feature_detected!("avx512f")),
    ];
    let found: Vec<&str> =
        features.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect();
    if found.is_empty() {
        "no AVX2: training and generation will be slow".into()
    } else {
        found.join(", ")
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> String {
    std::env::consts::ARCH.into()
}
