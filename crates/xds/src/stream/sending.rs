//! What a stream sends next.

use std::collections::BTreeSet;

use super::{
    Batch, Change, Desired, Gate, Held, InFlight, Item, MAX_BATCH_BYTES, MAX_CHANGES, Name, TypeStream,
};

impl<D: Desired> TypeStream<D> {
    /// The next response, if there is something to say and none is under way. What the gate closes stays
    /// for the next call.
    pub fn next(&mut self, mut gate: impl FnMut(&Change<D::Item>) -> Gate) -> Option<Batch<D::Item>> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut changes = Vec::new();
        while let Some(mut suspects) = self.suspects.pop_front() {
            changes = self.select(&mut suspects, &mut gate);
            self.dirty.append(&mut suspects);
            if !changes.is_empty() {
                break;
            }
        }
        if changes.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            changes = self.select(&mut dirty, &mut gate);
            self.dirty = dirty;
            let missing = self.missing_names(&changes);
            changes.extend(missing);
        }
        if changes.is_empty() && (self.answered || self.may_stay_silent()) {
            self.answered = true;
            return None;
        }
        // Nothing is not what there is: the client would take its initialisation for done.
        if changes.is_empty() && self.withholds() {
            return None;
        }
        self.answered = true;
        self.nonce += 1;
        self.in_flight = Some(InFlight { nonce: self.nonce, changes: changes.clone() });
        Some(Batch { nonce: self.nonce, changes })
    }

    /// A response without a change, to tell the client that all is well; `None` while another one is under way.
    pub fn beat(&mut self) -> Option<u64> {
        if self.in_flight.is_some() || !self.answered {
            return None;
        }
        self.nonce += 1;
        self.in_flight = Some(InFlight { nonce: self.nonce, changes: Vec::new() });
        Some(self.nonce)
    }

    /// What of these names can be sent now; the rest stays with them. Looks at no more names than fit: a stream that
    /// is brought up to date has thousands, and takes them in many turns.
    fn select(
        &mut self,
        names: &mut BTreeSet<Name>,
        gate: &mut impl FnMut(&Change<D::Item>) -> Gate,
    ) -> Vec<Change<D::Item>> {
        let (mut changes, mut batch_bytes, mut done) = (Vec::new(), 0, Vec::new());
        let unbounded = !self.bounded || self.sends_whole_sets();
        for name in names.iter() {
            // Remembered for as long as there could be a reason to send it again.
            if self.desired.get(name).is_none() {
                self.refused.remove(name);
            }
            let Some(change) = self.difference(name) else {
                done.push(name.clone());
                continue;
            };
            if change.item.is_none() && self.forgets_silently() {
                self.hold(name, Held::Nothing);
                done.push(name.clone());
                continue;
            }
            let bytes = change.item.as_ref().map_or(0, Item::bytes);
            let fits = batch_bytes + bytes <= MAX_BATCH_BYTES && changes.len() < MAX_CHANGES;
            if !fits && !unbounded && !changes.is_empty() {
                break;
            }
            match gate(&change) {
                Gate::Open => {
                    batch_bytes += bytes;
                    done.push(name.clone());
                    changes.push(change);
                }
                Gate::Later => {
                    done.push(name.clone());
                    self.parked.insert(name.clone());
                }
                Gate::Closed => {}
            }
        }
        if done.len() == names.len() {
            names.clear();
        }
        for name in done {
            names.remove(&name);
        }
        changes
    }

    fn withholds(&self) -> bool {
        self.dirty.iter().filter_map(|name| self.difference(name)).any(|change| change.item.is_some())
    }

    fn difference(&self, name: &Name) -> Option<Change<D::Item>> {
        let held = self.held(name);
        let item = self.desired.get(name);
        if !self.wants(name) {
            // It brought along what it did not ask for: it need only know if that is gone.
            return (item.is_none() && held.is_some()).then(|| Change { name: name.clone(), item: None });
        }
        let version = item.map(Item::version);
        if version == held {
            return None;
        }
        let refused = self.refused.get(name).map(|refused| &refused.version);
        if version.is_some() && version == refused {
            return None;
        }
        Some(Change { name: name.clone(), item: item.cloned() })
    }

    fn missing_names(&mut self, changes: &[Change<D::Item>]) -> Vec<Change<D::Item>> {
        let missing = std::mem::take(&mut self.missing);
        if missing.is_empty() || self.forgets_silently() {
            return Vec::new();
        }
        let told: BTreeSet<_> = changes.iter().map(|change| &change.name).collect();
        let untold = missing
            .into_iter()
            .filter(|name| !told.contains(name) && self.held(name).is_none())
            .filter(|name| self.desired.get(name).is_none() && self.desired.by_alias(name).is_none());
        untold.map(|name| Change { name, item: None }).collect()
    }
}
