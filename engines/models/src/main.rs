//! The command.
use lacuna_models::*;
use methods::*;
fn main() -> Result<()> {
    let folder = checkpoint::Model::SmolLm2.checkpoint(checkpoint::Format::Bf16)?;
    let weights = weights::Weights::open(&folder, checkpoint::Format::Bf16, &candle_core::Device::Cpu)?;
    let model = llama::Llama::load(&weights)?;
    let text = text::Text::open(&folder.join("tokenizer.json"))?;
    let n_ctx: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let n: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let n_needles: usize = std::env::args().nth(3).unwrap().parse().unwrap();
    let tokens = text.encode(needles::PROSE)?;
    println!("{} tokens", tokens.len());
    let start = std::time::Instant::now();
    let held = measure::Held::read(&model, &tokens[..n_ctx + n], n)?;
    println!("read {:?}", start.elapsed());
    let tiers = |shares| MethodKind::Tiered(Tiers { n_sinks: 4, n_window: 64, n_between: 64, shares });
    let kinds = [
        MethodKind::Full,
        MethodKind::TokenSelect(TokenSelect { n_init: 16, n_local: 64, k: 176 }),
        MethodKind::PageBounds(PageBounds { n_pages: 16, n_dense: 2 }),
        tiers([0.0, 1.0, 0.0, 0.0]),
        tiers([0.0, 0.0, 1.0, 0.0]),
        tiers([0.0, 0.0, 0.5, 0.5]),
    ];
    for kind in &kinds {
        let start = std::time::Instant::now();
        let (ppl, share) = held.perplexity(&model, kind)?;
        println!("{kind}: {ppl:.3} {share:.3} {:?}", start.elapsed());
    }
    let needles = needles::needles(&text, n_needles, n_ctx)?;
    for needle in &needles {
        let start = std::time::Instant::now();
        let hidden = measure::Hidden::read(&model, needle)?;
        println!("depth {} {} tokens {:?}", needle.depth, needle.context.len(), start.elapsed());
        for kind in &kinds[..if n_needles > 4 {1} else {6}] {
            let start = std::time::Instant::now();
            let answer = hidden.answer(&model, &text, kind)?;
            println!("  {kind}: {answer:?} {} {:?}", hidden.is_right(&answer), start.elapsed());
        }
    }
    Ok(())
}
