//! Which queries of a prompt stand for all.

/// Rows of a prompt that are its probes, ascending: the last `n_recent`, and `n_random` of those before, each set of them as likely as any
/// other (ZipCache, arXiv:2405.14256: a twentieth of a prompt's queries each; ZipVL, arXiv:2410.08584: 64 each). Where there are not so many
/// rows, all.
///
/// What is chosen depends on the arguments alone, on every machine, so that a prompt's tiers are the same in every run (the released code's
/// random probes have no seed). The queries are gathered by these numbers ([`gather_rows`](crate::select::gather_rows)), or lie there by
/// [`MassShape::probe_stride`](crate::select::MassShape); what a probe sees is its number and one more.
///
/// ```
/// use lacuna::quant::choose_probes;
///
/// let n = 4096;
/// let probes = choose_probes(7, n, n / 20, n / 20);
/// assert_eq!(probes.len(), 408);
/// let n_visible: Vec<u32> = probes.iter().map(|probe| probe + 1).collect();
/// assert_eq!(n_visible.last(), Some(&4096));
/// ```
pub fn choose_probes(seed: u64, n_rows: u32, n_recent: u32, n_random: u32) -> Vec<u32> {
    let n_before = n_rows.saturating_sub(n_recent);
    let n_random = n_random.min(n_before);
    let mut state = seed;
    let mut probes = Vec::new();
    for row in 0..n_before {
        // Each of the rows that are left with the chance that fills what is left of the list.
        let n_wanted = u64::from(n_random) - probes.len() as u64;
        if n_wanted == 0 {
            break;
        }
        if below(&mut state, u64::from(n_before - row)) < n_wanted {
            probes.push(row);
        }
    }
    probes.extend(n_before..n_rows);
    probes
}

/// The next number of SplitMix64, brought below a limit; none is likelier than another by more than 2^-32.
fn below(state: &mut u64, limit: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    ((u128::from(x) * u128::from(limit)) >> 64) as u64
}
