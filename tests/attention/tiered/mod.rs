//! `attend_tiered`.

mod problem;

use lacuna::attention::{Mask, Tokens};
use lacuna::kv::KvLists;
use lacuna::quant::{Tail, Tier};

use self::problem::*;
use crate::attend::problem::{Brain, Case, Part, Short};

fn case() -> Case {
    let waiting = Part::of(Tokens::Blocks { n_blocks: 70, block_size: 1 });
    let waiting = Part { lists: KvLists::PerHead, has_counts: true, has_biases: true, ..waiting };
    let parts = vec![waiting, Part::of(Tokens::last(20)).masked(Mask::Causal)];
    Case { lengths: vec![90, 33], n_heads: 2, head_dim: 64, parts, ..Case::default() }
}

#[test]
fn each_tier_alone() {
    for tier in Tier::ALL {
        let paged = Paged::<Brain>::new(&case(), &Pages { tiers: vec![tier], ..Pages::default() });
        assert_same::<_, f32>(&paged);
    }
}

#[test]
fn tiers_together() {
    for (head_dim, tail) in [(64, Tail::ZeroPoints), (128, Tail::Minimums), (256, Tail::ZeroPoints)]
    {
        let case = Case { head_dim, n_queries: 3, group: 5, has_sinks: true, ..case() };
        let pages = Pages { tail, has_counts: true, n_pages: 9, ..Pages::default() };
        assert_same::<_, f32>(&Paged::<Brain>::new(&case, &pages));
        assert_same::<_, Short>(&Paged::<Short>::new(&case, &pages));
    }
}
