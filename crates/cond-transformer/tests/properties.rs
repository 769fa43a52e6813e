//! What holds for every size and every file.

use cond_transformer::{
    GptConfig, LayoutTokens, LlamaConfig, Object, Order, Permuter, Places, PrefixConfig, Rect,
};
use golden as _;
use proptest::prelude::*;

const ORDERS: [Order; 7] = [
    Order::Identity,
    Order::Subsample,
    Order::ZCurve,
    Order::SpiralOut,
    Order::SpiralIn,
    Order::Random,
    Order::AlternateParsing,
];

fn any_rect() -> impl Strategy<Value = Rect> {
    let number = prop_oneof![
        8 => 0.0..1.0_f64,
        1 => -2.0..3.0_f64,
        1 => prop::num::f64::ANY,
    ];
    (number.clone(), number.clone(), number.clone(), number)
        .prop_map(|(x, y, width, height)| Rect { x, y, width, height })
}

proptest! {
    #[test]
    fn orders_are_undone(order in prop::sample::select(ORDERS.to_vec()), h in 0..20_usize, w in 0..20_usize) {
        for (h, w) in [(h, w), (h, h)] {
            if let Ok(permuter) = Permuter::new(order, h, w) {
                let grid: Vec<usize> = (100..100 + h * w).collect();
                let sequence = permuter.permute(&grid)?;
                prop_assert_eq!(permuter.restore(&sequence)?, grid);
                prop_assert!(permuter.permute(&[0]).is_err() || h * w == 1);
            }
        }
    }

    #[test]
    fn only_permutations_are_taken(indices in prop::collection::vec(0..6_u32, 0..7)) {
        let mut sorted = indices.clone();
        sorted.sort_unstable();
        let permutation = sorted.iter().enumerate().all(|(i, &index)| i as u32 == index);
        prop_assert_eq!(Permuter::from_forward(indices).is_ok(), permutation);
    }

    #[test]
    fn layouts_give_tokens_of_the_vocabulary(
        places in prop::collection::vec((any_rect(), 0..12_u32), 0..6),
        crop in any_rect(),
        flags in any::<[bool; 5]>(),
    ) {
        let tokens = LayoutTokens {
            categories: 10,
            max_objects: 4,
            vocabulary: 200,
            places: if flags[0] { Places::Boxes } else { Places::Centres },
            encode_crop: flags[1],
            tell_groups: flags[2],
            tell_attributes: flags[3],
        };
        let objects: Vec<_> = places
            .into_iter()
            .map(|(place, category)| Object {
                category,
                place,
                group: true,
                occluded: true,
                depiction: false,
                inside: true,
            })
            .collect();
        if let Ok(encoded) = tokens.encode(&objects, crop, flags[4]) {
            prop_assert_eq!(encoded.len(), tokens.positions());
            prop_assert!(tokens.decode(&encoded)?.objects.len() <= 4);
        }
    }

    #[test]
    fn sizes_of_any_file_are_refused_or_fit(sizes in any::<[u32; 6]>(), small in any::<[u8; 6]>(), times in any::<f64>()) {
        for s in [sizes.map(|size| size as usize), small.map(usize::from)] {
            let gpt = GptConfig {
                vocab_size: s[0], block_size: s[1], n_layer: s[2], n_head: s[3], n_embd: s[4], n_unmasked: s[5],
            };
            if gpt.validate().is_ok() {
                prop_assert!(gpt.n_embd.is_multiple_of(gpt.n_head));
            }
            let llama = LlamaConfig {
                vocab_size: s[0], block_size: s[1], dim: s[4], n_layer: s[2], n_head: s[3],
                n_kv_head: Some(s[5]), multiple_of: s[5], ffn_dim_multiplier: Some(times),
                rope_base: times, norm_eps: times, prefix: PrefixConfig::Class { classes: s[0] },
            };
            if llama.validate().is_ok() {
                prop_assert!(llama.hidden_dim().is_multiple_of(llama.multiple_of));
            }
        }
    }
}

#[test]
fn unknown_fields_are_refused() {
    let text = r#"{"vocab_size": 8, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4, "n_heads": 2}"#;
    assert!(serde_json::from_str::<GptConfig>(text).is_err());
}
