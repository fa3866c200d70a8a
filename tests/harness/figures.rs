//! What the benches measure alike, and how they print it.

use std::fs;

use serde_json::{Value, json};

/// Prints the figures: for machines with `--json` on the command line, else under a title.
#[allow(clippy::print_stdout)]
pub fn print(title: &str, figures: &Value) {
    if std::env::args().any(|arg| arg == "--json") {
        println!("{figures}");
    } else {
        println!("{title}: {figures:#}");
    }
}

/// The smallest of the values that so many percent of them do not exceed.
pub fn percentile(percent: usize, mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Half of the values are not larger.
pub fn median(values: Vec<f64>) -> f64 {
    percentile(50, values)
}

/// With so many digits after the point.
pub fn rounded(value: f64, digits: i32) -> Value {
    let scale = 10_f64.powi(digits);
    json!((value * scale).round() / scale)
}

/// User and system time of a process so far, and of all living ones below it: 10 ms a tick (proc(5)).
pub fn cpu_ms(root: u32) -> f64 {
    const TICK_MS: f64 = 10.0;
    let mut all: Vec<(u32, u32, f64)> = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has just ended.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name, in brackets, may hold spaces.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let parent = fields.get(1).and_then(|field| field.parse().ok()).unwrap_or(0);
        all.push((id, parent, (ticks(11) + ticks(12)) * TICK_MS));
    }
    let (mut open, mut sum) = (vec![root], 0.0);
    while let Some(id) = open.pop() {
        sum += all.iter().filter(|(own, ..)| *own == id).map(|(.., spent)| spent).sum::<f64>();
        open.extend(all.iter().filter(|(_, parent, _)| *parent == id).map(|(own, ..)| *own));
    }
    sum
}
