//! In which order log-sum-exps lie, the same for every kernel that writes or reads them.

/// The order of log-sum-exps, of which each token has one for each query head (`softmax_lse` of FlashAttention, `lse` of FlashInfer).
///
/// Where a request has one query, as in plain decoding, the first is the third too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogSumOrder {
    /// `[tokens, heads]`, as FlashInfer has them.
    #[default]
    TokensHeads,
    /// `[heads, tokens]`, as FlashAttention's calls for requests of various lengths (`varlen`) write them, and vLLM's `merge_attn_states`
    /// reads and writes.
    HeadsTokens,
    /// `[batch, heads, n_queries]`, as FlashAttention's calls for as many queries of each request have them (`flash_attn_with_kvcache`);
    /// merging, [`MergeShape::n_queries`](crate::attention::MergeShape::n_queries) says how many those are. Of chunks of prompts there is
    /// no such order: what is padded to the longest chunk, as older `varlen` calls had it, is not supported.
    BatchHeadsQueries,
}

impl LogSumOrder {
    /// The place of the log-sum of a token and head, of so many tokens, queries of each request, and heads.
    ///
    /// # Panics
    /// By requests, where `n_queries` is 0.
    pub fn locate(self, [n_tokens, n_queries, n_heads]: [u64; 3], [token, head]: [u64; 2]) -> u64 {
        match self {
            Self::TokensHeads => token * n_heads + head,
            Self::HeadsTokens => head * n_tokens + token,
            Self::BatchHeadsQueries => {
                let (request, query) = (token / n_queries, token % n_queries);
                (request * n_heads + head) * n_queries + query
            }
        }
    }

    /// What kernels take.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(crate) fn strides(
        self,
        [n_tokens, n_queries, n_heads]: [u64; 3],
    ) -> crate::bindings::AttentionLogSumStrides {
        let [request, query, head] = match self {
            Self::TokensHeads => [n_queries * n_heads, n_heads, 1],
            Self::HeadsTokens => [n_queries, 1, n_tokens],
            Self::BatchHeadsQueries => [n_queries * n_heads, 1, n_queries],
        };
        crate::bindings::AttentionLogSumStrides { request, query, head }
    }
}
