//! Asks Envoy itself whether it takes what passed the gate: `envoy --mode validate`, one program for each version of
//! the fleet. No schema knows that a regex does not compile, or a key does not fit its certificate.
//!
//! Never the only gate: what Envoy takes here can still be refused on a node, whose files and addresses are others.

mod bootstrap;
mod envoy;
mod verdicts;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use resources::{Bootstrap, Resource};

pub use envoy::ValidatorError;

use self::{envoy::Envoy, verdicts::Verdicts};

/// The programs, and what each has said so far.
#[derive(Debug)]
pub struct Validator {
    examiners: Vec<Examiner>,
    bootstrap: Bootstrap,
    /// For the configurations, while a program reads them: only the owner can look in.
    folder: PathBuf,
    metrics: Metrics,
}

#[derive(Debug)]
struct Examiner {
    envoy: Envoy,
    verdicts: Verdicts,
}

/// How often the programs were asked.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    runs: Family<VersionLabel, Counter>,
    refused: Family<VersionLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    envoy_version: String,
}

impl Metrics {
    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_validator");
        registry.register("runs", "Runs of envoy --mode validate", self.runs.clone());
        registry.register("refused", "Services, or the edge, that it refused", self.refused.clone());
    }

    fn label(envoy: &Envoy) -> VersionLabel {
        VersionLabel { envoy_version: envoy.version().to_owned() }
    }
}

/// What goes live or stays out together: a service's resources, or the edge's.
#[derive(Debug, Clone, Copy)]
pub struct Unit<'a, Id> {
    /// Whose they are.
    pub id: Id,
    /// All of them.
    pub resources: &'a [Arc<Resource>],
}

/// Units in one run. 1,000 services with their clusters and hosts take Envoy about a second.
const MAX_BATCH: usize = 1_000;
/// Runs to find those that are refused, for one change: with more of them, what is wrong is common to all.
const MAX_RUNS: usize = 200;

impl Validator {
    /// These programs, each asked for its version. They read configurations from the folder, which only its owner can
    /// look into: certificates' keys are in them.
    ///
    /// # Errors
    /// A program that does not run, or is no Envoy.
    pub fn new(
        programs: &[PathBuf],
        bootstrap: Bootstrap,
        folder: &Path,
        metrics: Metrics,
    ) -> Result<Self, ValidatorError> {
        let examiner =
            |program: &PathBuf| Ok(Examiner { envoy: Envoy::at(program)?, verdicts: Verdicts::default() });
        let examiners = programs.iter().map(examiner).collect::<Result<_, _>>()?;
        Ok(Self { examiners, bootstrap, folder: folder.to_owned(), metrics })
    }

    /// Whom of these one of the versions refuses, with its words. `concerns` says which versions there are among those
    /// who get them; `base` is what they may name of the edge.
    pub fn refusals<Id: Ord + Clone + Sync + Send>(
        &self,
        concerns: impl Fn(&str) -> bool,
        base: &[Arc<Resource>],
        units: &[Unit<'_, Id>],
    ) -> BTreeMap<Id, String> {
        let examiners = self.examiners.iter().filter(|examiner| concerns(examiner.envoy.version()));
        let all = thread::scope(|scope| {
            let asked: Vec<_> =
                examiners.map(|examiner| scope.spawn(|| self.ask(examiner, base, units))).collect();
            asked.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let mut refused = BTreeMap::new();
        for of_one in all {
            match of_one {
                Ok(of_one) => of_one.into_iter().for_each(|(id, words)| {
                    refused.entry(id).or_insert(words);
                }),
                // Nothing passes for examined that was not.
                Err(_) => units.iter().for_each(|unit| {
                    refused.entry(unit.id.clone()).or_insert("the validator ended by itself".into());
                }),
            }
        }
        refused
    }

    fn ask<Id: Ord + Clone>(
        &self,
        examiner: &Examiner,
        base: &[Arc<Resource>],
        units: &[Unit<'_, Id>],
    ) -> BTreeMap<Id, String> {
        let mut refused = BTreeMap::new();
        let mut open = Vec::new();
        for unit in units {
            match examiner.verdicts.of(unit.resources) {
                Some(Ok(())) => {}
                Some(Err(words)) => {
                    refused.insert(unit.id.clone(), words);
                }
                None => open.push(unit),
            }
        }
        let mut batches: Vec<&[&Unit<'_, Id>]> = open.chunks(MAX_BATCH).rev().collect();
        let mut runs = 0;
        while let Some(batch) = batches.pop() {
            let version = examiner.envoy.version();
            if runs >= MAX_RUNS {
                let words = format!("Envoy {version} was not asked: it refused too many others first");
                refused.extend(batch.iter().map(|unit| (unit.id.clone(), words.clone())));
                continue;
            }
            runs += 1;
            self.metrics.runs.get_or_create(&Metrics::label(&examiner.envoy)).inc();
            let together = batch.iter().flat_map(|unit| unit.resources);
            let config = bootstrap::with(&self.bootstrap, base, together);
            match (examiner.envoy.takes(&config, &self.folder), batch) {
                (Ok(()), batch) => {
                    for unit in batch {
                        examiner.verdicts.keep(unit.resources, Ok(()));
                    }
                }
                (Err(words), [unit]) => {
                    let words = format!("Envoy {version} refuses it: {words}");
                    tracing::warn!(version, words, "refused by Envoy itself");
                    self.metrics.refused.get_or_create(&Metrics::label(&examiner.envoy)).inc();
                    examiner.verdicts.keep(unit.resources, Err(words.clone()));
                    refused.insert(unit.id.clone(), words);
                }
                (Err(_), batch) => {
                    let (one, other) = batch.split_at(batch.len() / 2);
                    batches.extend([other, one]);
                }
            }
        }
        refused
    }
}
