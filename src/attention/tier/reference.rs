//! What `tier_resolve` must do, written for reading.

/// The slots of one list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// The slot of each logical number, or -1.
    pub slot_of: Vec<i32>,
    /// The logical number in each slot, or -1.
    pub logical_of: Vec<i32>,
    /// Slots asked for since the hand passed them.
    pub referenced: Vec<bool>,
    /// The slot that is looked at next.
    pub hand: u32,
}

/// What became of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The slot of each entry.
    pub slots: Vec<Option<usize>>,
    /// Whether each entry was there before.
    pub is_hit: Vec<bool>,
    /// Logical numbers that are to be copied, and to which slots.
    pub misses: Vec<(usize, usize)>,
    /// Logical numbers that no slot was left for.
    pub n_overflows: usize,
}

impl Tier {
    /// Slots with nothing in them.
    pub fn new(n_logical: usize, n_slots: usize) -> Self {
        Self {
            slot_of: vec![-1; n_logical],
            logical_of: vec![-1; n_slots],
            referenced: vec![false; n_slots],
            hand: 0,
        }
    }

    /// Where a logical number is: where both maps say so.
    pub fn find(&self, logical: usize) -> Option<usize> {
        let slot = usize::try_from(*self.slot_of.get(logical)?).ok()?;
        (*self.logical_of.get(slot)? == logical as i32).then_some(slot)
    }

    /// Finds the slots of a list's entries, and others for what misses, in the order of the list; `has_source` says
    /// which can be copied at all.
    ///
    /// CLOCK: from the hand on, slots that were asked for since it last passed are passed over, and lose the mark;
    /// the others are taken. What this list asks for is passed over, and keeps it.
    pub fn resolve(&mut self, list: &[i32], has_source: impl Fn(usize) -> bool) -> Resolved {
        let n_slots = self.logical_of.len();
        let number = |entry: &i32| usize::try_from(*entry).ok().filter(|n| *n < self.slot_of.len());
        let asked: Vec<_> = list.iter().map(number).collect();
        let hits: Vec<_> = asked.iter().map(|asked| self.find((*asked)?)).collect();
        let mut missed: Vec<usize> = Vec::new();
        for (logical, hit) in asked.iter().zip(&hits) {
            if let (Some(logical), None) = (*logical, hit)
                && has_source(logical)
                && !missed.contains(&logical)
            {
                missed.push(logical);
            }
        }

        let hand = self.hand as usize % n_slots;
        let round: Vec<_> = (0..n_slots).map(|i| (hand + i) % n_slots).collect();
        let mut is_wanted = vec![false; n_slots];
        hits.iter().flatten().for_each(|slot| is_wanted[*slot] = true);
        let free = round.iter().copied().filter(|slot| !is_wanted[*slot]);
        let (stale, fresh): (Vec<_>, Vec<_>) = free.partition(|slot| self.referenced[*slot]);
        let n_fresh = fresh.len();
        let victims: Vec<_> = fresh.into_iter().chain(stale).take(missed.len()).collect();
        let end = victims.last().map_or(hand, |last| last + 1);
        let n_passed = match victims.len() {
            0 => 0,
            n if n > n_fresh => n_slots,
            _ => (end - 1 + n_slots - hand) % n_slots + 1,
        };
        round[..n_passed].iter().for_each(|slot| self.referenced[*slot] = false);
        hits.iter().flatten().chain(&victims).for_each(|slot| self.referenced[*slot] = true);
        self.hand = (end % n_slots) as u32;

        missed.iter().for_each(|logical| self.slot_of[*logical] = -1);
        for slot in &victims {
            let before = usize::try_from(self.logical_of[*slot]).ok();
            if let Some(was) = before.and_then(|before| self.slot_of.get_mut(before))
                && *was == *slot as i32
            {
                *was = -1;
            }
        }
        let misses: Vec<_> = missed.iter().copied().zip(victims).collect();
        for (logical, slot) in &misses {
            self.slot_of[*logical] = *slot as i32;
            self.logical_of[*slot] = *logical as i32;
        }
        let of = |(asked, hit): (&Option<usize>, &Option<usize>)| {
            hit.or_else(|| misses.iter().find(|(logical, _)| Some(*logical) == *asked).map(|m| m.1))
        };
        Resolved {
            slots: asked.iter().zip(&hits).map(of).collect(),
            is_hit: hits.iter().map(Option::is_some).collect(),
            n_overflows: missed.len() - misses.len(),
            misses,
        }
    }
}
