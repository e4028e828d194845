//! Which matrices of a model form a group.

use std::collections::BTreeMap;
use std::path::Path;

use regex::{Regex, RegexBuilder};

use super::tensor_file::broken;
use crate::Result;

const ATTENTION_AND_MLP: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];
const BERT_LAYER: &[&str] = &[
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

/// Llama, Qwen, Mistral and Gemma; the language half of multimodal Gemma and Qwen; BERT with and
/// without its prefix; then embeddings and output layers, each a group of its own.
const DEFAULTS: &[(&str, &[&str])] = &[
    (r"model\.layers\.\d+", ATTENTION_AND_MLP),
    (r"model\.language_model\.layers\.\d+", ATTENTION_AND_MLP),
    (r"language_model\.model\.layers\.\d+", ATTENTION_AND_MLP),
    (r"encoder\.layer\.\d+", BERT_LAYER),
    (r"bert\.encoder\.layer\.\d+", BERT_LAYER),
    (r"model\.embed_tokens", &[]),
    (r"model\.language_model\.embed_tokens", &[]),
    (r"language_model\.model\.embed_tokens", &[]),
    (r"embeddings\.word_embeddings", &[]),
    (r"bert\.embeddings\.word_embeddings", &[]),
    (r"lm_head", &[]),
];

/// A rule that makes groups, as `pattern_dict` of a DF11 `config.json` holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPattern {
    /// Regular expression of the whole module path of a group.
    pub pattern: String,
    /// The modules inside it whose `weight` it compresses, in order; none: the module's own.
    pub modules: Vec<String>,
}

impl GroupPattern {
    /// The patterns for common models: Llama, Qwen, Gemma, Mistral, BERT.
    pub fn defaults() -> Vec<Self> {
        DEFAULTS
            .iter()
            .map(|(pattern, modules)| Self {
                pattern: (*pattern).to_owned(),
                modules: modules.iter().map(|module| (*module).to_owned()).collect(),
            })
            .collect()
    }

    /// Parses `REGEX=module,module,…`, or `REGEX` alone for a module that is a group itself.
    pub fn parse(text: &str) -> Self {
        let (pattern, modules) = text.split_once('=').unwrap_or((text, ""));
        let modules = modules.split(',').filter(|module| !module.is_empty());
        Self { pattern: pattern.to_owned(), modules: modules.map(str::to_owned).collect() }
    }

    pub(super) fn regex(&self, source: &Path) -> Result<Regex> {
        RegexBuilder::new(&format!("^(?:{})$", self.pattern))
            .size_limit(1 << 20)
            .build()
            .map_err(|error| broken(source, format!("the group pattern {}: {error}", self.pattern)))
    }
}

/// A group to make: its name and the names of its tensors, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedGroup {
    pub(super) name: String,
    pub(super) tensors: Vec<String>,
    /// Index of the pattern that made it.
    pub(super) pattern: usize,
}

/// Groups `names`, the model's bf16 matrices. The first pattern that takes a matrix has it.
pub(super) fn plan_groups(
    source: &Path,
    names: &[String],
    patterns: &[GroupPattern],
) -> Result<Vec<PlannedGroup>> {
    let mut taken = std::collections::HashSet::new();
    let mut groups = Vec::new();
    for (idx, pattern) in patterns.iter().enumerate() {
        let regex = pattern.regex(source)?;
        let own = [String::new()];
        let modules = if pattern.modules.is_empty() { &own[..] } else { &pattern.modules };
        let mut found: BTreeMap<&str, Vec<Option<&String>>> = BTreeMap::new();
        for name in names.iter().filter(|name| !taken.contains(*name)) {
            let Some(module_path) = name.strip_suffix(".weight") else { continue };
            for (place, module) in modules.iter().enumerate() {
                let group = match module.is_empty() {
                    true => Some(module_path),
                    false => {
                        module_path.strip_suffix(module.as_str()).and_then(|g| g.strip_suffix('.'))
                    }
                };
                let Some(group) = group.filter(|group| regex.is_match(group)) else { continue };
                found.entry(group).or_insert_with(|| vec![None; modules.len()])[place] = Some(name);
            }
        }
        for (group, tensors) in found {
            if let Some(missing) = tensors.iter().position(Option::is_none) {
                return Err(broken(
                    source,
                    format!(
                        "{group} has no bf16 matrix {}, which the pattern {} asks for; other readers \
                         need all of them: name the groups of this model with --group",
                        modules[missing], pattern.pattern
                    ),
                ));
            }
            let tensors: Vec<_> = tensors.into_iter().flatten().cloned().collect();
            taken.extend(tensors.iter().cloned());
            groups.push(PlannedGroup { name: group.to_owned(), tensors, pattern: idx });
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(names: &[&str], patterns: &[GroupPattern]) -> Result<Vec<PlannedGroup>> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        plan_groups(Path::new("model"), &names, patterns)
    }

    #[test]
    fn a_llama_layer_is_one_group_in_the_order_of_the_pattern() {
        let names: Vec<_> = ATTENTION_AND_MLP
            .iter()
            .rev()
            .map(|module| format!("model.layers.11.{module}.weight"))
            .chain(["lm_head.weight".to_owned(), "model.norm.weight".to_owned()])
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let groups = plan(&names, &GroupPattern::defaults()).unwrap();
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].name, "model.layers.11");
        assert_eq!(groups[0].tensors[0], "model.layers.11.self_attn.q_proj.weight");
        assert_eq!(groups[0].tensors[6], "model.layers.11.mlp.down_proj.weight");
        assert_eq!(groups[1].tensors, ["lm_head.weight"]);
    }

    #[test]
    fn a_missing_matrix_is_named() {
        let error = plan(&["model.layers.0.mlp.up_proj.weight"], &GroupPattern::defaults());
        let text = error.unwrap_err().to_string();
        assert!(text.contains("model.layers.0 has no bf16 matrix self_attn.q_proj"), "{text}");
    }

    #[test]
    fn a_users_pattern_comes_as_he_wrote_it() {
        let pattern = GroupPattern::parse(r"blocks\.\d+=attn.qkv,mlp.fc1");
        assert_eq!(pattern.modules, ["attn.qkv", "mlp.fc1"]);
        let groups = plan(&["blocks.3.mlp.fc1.weight", "blocks.3.attn.qkv.weight"], &[pattern]);
        assert_eq!(groups.unwrap()[0].tensors.len(), 2);
        assert!(plan(&[], &[GroupPattern::parse("(")]).is_err());
    }
}
