//! Everything that CI runs.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, ensure};

use crate::{
    build, lint,
    shell::{cargo, say},
};

/// With a name, only the tests whose name contains it, and no linting.
pub(crate) fn run(name: Option<&str>) -> anyhow::Result<()> {
    if name.is_none() {
        lint::style()?;
    }
    build::for_tests()?;
    say("tests");
    let mut test = cargo();
    // A failure in one crate must not hide those of the others.
    test.args(["test", "--no-fail-fast"]);
    test.args(name);
    let (passed, failed, good) = counted(&mut test)?;
    // In the form that CI reads.
    #[allow(clippy::print_stdout)]
    {
        println!("total: {passed} passed, {failed} failed");
    }
    ensure!(good && failed == 0, "{failed} tests failed, or something did not build");
    ensure!(passed > 0, "no test ran");
    Ok(())
}

/// Runs `cargo test`, shows what it prints, and adds up its results.
fn counted(test: &mut std::process::Command) -> anyhow::Result<(u64, u64, bool)> {
    let mut child = test.stdout(Stdio::piped()).spawn().context("starting cargo test")?;
    let output = child.stdout.take().context("cargo test has an output")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line?;
        #[allow(clippy::print_stdout)]
        {
            println!("{line}");
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let part = result.split([';', '.']).find(|part| part.trim().ends_with(what));
                part.and_then(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            passed += count("passed");
            failed += count("failed");
        }
    }
    Ok((passed, failed, child.wait()?.success()))
}
