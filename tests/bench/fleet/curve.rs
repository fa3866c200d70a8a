//! How the cost of a change grows with the fleet and with what it is served: figures, and a plot of them.

use std::{fmt::Write as _, path::Path, sync::Arc};

use lab::Ports;
use serde_json::{Value, json};
use store::{Keys, SqliteStore};
use tests::figures::{median, percentile, rounded};
use tokio::sync::watch;

use crate::{
    Run, Server, Size, Start, change_all, floor,
    proxy::{Fleet, Goal},
    seed, settle, wait_for,
};

const PROXIES: [usize; 4] = [250, 500, 1_000, 2_000];
const SERVICES: [usize; 3] = [500, 5_000, 20_000];
const CHANGES: usize = 25;

/// One fleet of one size.
struct Point {
    proxies: usize,
    /// Milliseconds.
    p50: f64,
}

/// Measures all of them, and draws the plot.
pub(crate) async fn draw(plot: &Path) -> anyhow::Result<Value> {
    let mut lines = Vec::new();
    let mut rows = Vec::new();
    for services in SERVICES {
        let mut line = Vec::new();
        let folder = tempfile::tempdir()?;
        let store = SqliteStore::open(&folder.path().join("gatehouse.db"), Keys::default())?;
        let mut instances = seed(&store, services).await?;
        let ports = Ports::free()?;
        let server = Server::start(folder.path(), &ports).await?;
        for proxies in PROXIES {
            let size = Size { proxies, services, changes: CHANGES };
            let fleet = Arc::new(Fleet::default());
            let all = Goal::Complete { clusters: services, endpoints: services, hosts: services };
            let (goals, _) = watch::channel(all);
            let run = Run::start(&size, ports.xds, &Start::Cold, &fleet, &goals).await;
            let cold_start_s = wait_for(&fleet.complete, proxies, &fleet).await?.as_secs_f64();
            settle(&server).await?;
            let changes = change_all(&size, &store, &mut instances, &server, &fleet, &goals).await?;
            let p50 = median(changes.took.clone());
            rows.push(json!({
                "proxies": proxies,
                "services": services,
                "propagation_p50_ms": rounded(p50, 1),
                "propagation_p99_ms": rounded(percentile(99, changes.took), 1),
                "server_cpu_ms_per_change": rounded(changes.cpu_ms_per_change, 1),
                "render_one_ms": rounded(median(changes.renders), 1),
                "cold_start_s": rounded(cold_start_s, 1),
                "rss_mb": rounded(server.rss_mb()?, 0),
            }));
            line.push(Point { proxies, p50 });
            run.stop().await;
            settle(&server).await?;
        }
        server.stop().await;
        lines.push((format!("{services} services"), line));
    }
    let mut line = Vec::new();
    for proxies in PROXIES {
        let p50 = median(floor::measure(proxies, Ports::free()?.xds).await?);
        rows.push(json!({"proxies": proxies, "floor_p50_ms": rounded(p50, 1)}));
        line.push(Point { proxies, p50 });
    }
    lines.push(("bare streams".to_owned(), line));
    std::fs::write(plot, svg(&lines))?;
    Ok(Value::Array(rows))
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Around the plot, for its words.
const MARGIN: f64 = 60.0;
/// Room for the names of the lines.
const NAMES: f64 = 120.0;
/// The height of a line of text.
const LETTER: f64 = 16.0;
const COLORS: [&str; 4] = ["#4477aa", "#228833", "#cc3311", "#777777"];

/// Milliseconds over proxies, a line each.
#[allow(clippy::cast_precision_loss)]
fn svg(lines: &[(String, Vec<Point>)]) -> String {
    let points = || lines.iter().flat_map(|(_, line)| line);
    let most = points().map(|point| point.proxies).max().unwrap_or(1) as f64;
    let longest = (points().map(|point| point.p50).fold(1.0, f64::max) / 50.0).ceil() * 50.0;
    let x = |proxies: usize| MARGIN + proxies as f64 / most * (WIDTH - MARGIN - NAMES);
    let y = |millis: f64| HEIGHT - MARGIN - millis / longest * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, color: &str, words: &str| {
        let _infallible = writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{color}\">{words}</text>"
        );
    };
    text(MARGIN, 30.0, "start", "black", "A change, to the last proxy: milliseconds (p50) over proxies");
    for proxies in PROXIES {
        text(x(proxies), HEIGHT - MARGIN + 20.0, "middle", "black", &proxies.to_string());
    }
    for step in 0..=4 {
        let millis = longest * f64::from(step) / 4.0;
        text(MARGIN - 8.0, y(millis) + 4.0, "end", "black", &format!("{millis:.0}"));
    }
    let mut names: Vec<_> = lines.iter().zip(COLORS).collect();
    names.sort_by(|((_, a), _), ((_, b), _)| {
        let end = |line: &Vec<Point>| line.last().map_or(0.0, |last| last.p50);
        end(b).total_cmp(&end(a))
    });
    // Lines that end together still have names that can be read.
    let mut above = 0.0_f64;
    for ((name, line), color) in names {
        if let Some(last) = line.last() {
            above = above.max(y(last.p50) - LETTER) + LETTER;
            text(x(last.proxies) + 8.0, above + 4.0, "start", color, name);
        }
    }
    for ((_, line), color) in lines.iter().zip(COLORS) {
        let path: Vec<_> =
            line.iter().map(|point| format!("{:.1},{:.1}", x(point.proxies), y(point.p50))).collect();
        let path = path.join(" ");
        let _infallible = writeln!(
            svg,
            "<polyline points=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>"
        );
    }
    let (left, bottom, right) = (MARGIN, HEIGHT - MARGIN, WIDTH - NAMES);
    let _infallible = writeln!(
        svg,
        "<polyline points=\"{left},{MARGIN} {left},{bottom} {right},{bottom}\" fill=\"none\" stroke=\"black\"/>\n</svg>"
    );
    svg
}
