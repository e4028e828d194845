//! Zero is each enum's usual value in C, and that is the default in Rust.

use lacuna::attention::{LogBase, LogSumOrder, Positions};
use lacuna::capi::{
    lacuna_absent, lacuna_group_reduction, lacuna_kv_lists, lacuna_listed, lacuna_log_base,
    lacuna_log_sum_order, lacuna_merge_weights, lacuna_norm, lacuna_order, lacuna_packing,
    lacuna_positions, lacuna_score_kind, lacuna_summary, lacuna_tail, lacuna_together, lacuna_turn,
    lacuna_vote_reduction,
};
use lacuna::kv::{KvLists, Packing};
use lacuna::quant::{Norm, Tail, Turn};
use lacuna::select::{
    Absent, GroupReduction, Listed, MergeWeights, Order, ScoreKind, Summary, Together,
    VoteReduction,
};

/// Each Rust enum's value, and the C enum's of the same name, in turn.
macro_rules! usual {
    ($($rust:ident::$value:ident, $c:ident::$number:ident;)*) => {$(
        assert_eq!($rust::default(), $rust::$value);
        assert_eq!($c::$number as u32, 0);
    )*};
}

#[test]
fn zero_in_c_is_the_default_in_rust() {
    usual! {
        Absent::Zeros, lacuna_absent::LACUNA_ABSENT_ZEROS;
        GroupReduction::None, lacuna_group_reduction::LACUNA_GROUP_NONE;
        KvLists::PerHead, lacuna_kv_lists::LACUNA_KV_PER_HEAD;
        Listed::Kept, lacuna_listed::LACUNA_LISTED_KEPT;
        LogBase::E, lacuna_log_base::LACUNA_LOG_BASE_E;
        LogSumOrder::TokensHeads, lacuna_log_sum_order::LACUNA_LOG_SUMS_TOKENS_HEADS;
        MergeWeights::Softmax, lacuna_merge_weights::LACUNA_MERGE_SOFTMAX;
        Norm::L1, lacuna_norm::LACUNA_NORM_L1;
        Order::Index, lacuna_order::LACUNA_ORDER_INDEX;
        Packing::LayersTogether, lacuna_packing::LACUNA_PACKING_LAYERS_TOGETHER;
        Positions::Rows, lacuna_positions::LACUNA_POSITIONS_ROWS;
        ScoreKind::Dot, lacuna_score_kind::LACUNA_SCORE_DOT;
        Summary::Box, lacuna_summary::LACUNA_SUMMARY_BOX;
        Tail::ZeroPoints, lacuna_tail::LACUNA_TAIL_ZERO_POINTS;
        Together::QueryHead, lacuna_together::LACUNA_TOGETHER_QUERY_HEAD;
        Turn::Halves, lacuna_turn::LACUNA_TURN_HALVES;
        VoteReduction::Sum, lacuna_vote_reduction::LACUNA_VOTE_SUM;
    }
}
