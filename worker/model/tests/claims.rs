//! The paper's claims about captioners, on scenes small enough to train for in a test. At the size of a study they are tried by
//! `cappactl local study` (docs/study).

#[allow(dead_code, reason = "only the configuration is used here")]
mod common;

use cappa_model::optim::{MuonConfig, Optimizer, OptimizerConfig, RuleConfig};
use cappa_model::schedule::{Decay, Schedule};
use cappa_model::{Batch, Captioner, END_OF_TEXT, PAD};
use tch::{Device, Kind, Tensor};

/// Pixel values of the colours.
const COLOURS: [[u8; 3]; 3] = [[230, 30, 30], [30, 200, 40], [40, 60, 230]];
/// Their tokens, and those of the two shapes: a filled square and a frame.
const COLOUR_TOKENS: [i64; 3] = [10, 11, 12];
const SHAPE_TOKENS: [i64; 2] = [20, 21];
const SIDE: usize = 64;

/// A filled square and a frame of different colours beside each other.
#[derive(Clone, Copy)]
struct Scene {
    /// Of what is on the left, and on the right.
    colours: [usize; 2],
    shapes: [usize; 2],
}

impl Scene {
    fn nth(n: u64) -> Self {
        // Numbers that follow each other give unrelated scenes.
        let mixed = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
        let (left, shift, first) = (mixed % 3, 1 + (mixed / 3) % 2, (mixed / 6) % 2);
        Self { colours: [left, (left + shift) % 3], shapes: [first, 1 - first] }
    }

    fn attributes_exchanged(self) -> Self {
        Self { colours: [self.colours[1], self.colours[0]], ..self }
    }

    /// What is on the right is said to be on the left.
    fn relation_reversed(self) -> Self {
        let reversed = |[left, right]: [usize; 2]| [right, left];
        Self { colours: reversed(self.colours), shapes: reversed(self.shapes) }
    }

    fn pixels(self) -> Vec<u8> {
        let mut pixels = vec![128; SIDE * SIDE * 3];
        for (place, (colour, shape)) in self.colours.into_iter().zip(self.shapes).enumerate() {
            let (left, top) = (4 + 32 * place, 20);
            for (y, x) in (0..24).flat_map(|y| (0..24).map(move |x| (y, x))) {
                let is_inside = (6..18).contains(&x) && (6..18).contains(&y);
                if shape == 0 || !is_inside {
                    let at = ((top + y) * SIDE + left + x) * 3;
                    pixels[at..at + 3].copy_from_slice(&COLOURS[colour]);
                }
            }
        }
        pixels
    }

    /// Left before right, colour before shape.
    fn caption(self) -> [i64; 5] {
        let word = |place: usize| [COLOUR_TOKENS[self.colours[place]], SHAPE_TOKENS[self.shapes[place]]];
        let ([a, b], [c, d]) = (word(0), word(1));
        [a, b, c, d, END_OF_TEXT]
    }
}

fn images(scenes: &[Scene]) -> Tensor {
    let pixels: Vec<u8> = scenes.iter().flat_map(|scene| scene.pixels()).collect();
    Tensor::from_slice(&pixels).view([scenes.len() as i64, SIDE as i64, SIDE as i64, 3])
}

fn tokens(captions: impl Iterator<Item = [i64; 5]>) -> Tensor {
    let length = usize::try_from(common::config().text_length).expect("a length");
    let padded = captions.flat_map(|caption| caption.into_iter().chain(std::iter::repeat_n(PAD, length - 5)));
    Tensor::from_slice(&padded.collect::<Vec<_>>()).view([-1, length as i64])
}

/// Trains on `steps` batches of 32 scenes, of which this share is predicted in parallel.
fn trained(parallel_fraction: f64, steps: u64) -> Captioner {
    const ROWS: u64 = 32;
    tch::set_num_threads(1);
    let config = common::config();
    let captioner = Captioner::new(&config, 1, Device::Cpu).expect("a valid network");
    let schedule = Schedule { total_steps: steps, warmup_steps: 5, cooldown_steps: 0, decay: Decay::Cosine };
    let rule = RuleConfig::Muon(MuonConfig::default());
    let mut optimizer = Optimizer::new(
        OptimizerConfig { rule, learning_rate: 3e-3, weight_decay: 1e-4, clip_norm: Some(1.0), schedule },
        captioner.params(),
    );
    for step in 0..steps {
        let scenes: Vec<Scene> = (0..ROWS).map(|row| Scene::nth(step * ROWS + row)).collect();
        let parallel = (parallel_fraction * ROWS as f64).round() as u64;
        let batch = Batch {
            images: images(&scenes),
            tokens: tokens(scenes.iter().map(|scene| scene.caption())),
            parallel: (0..ROWS).map(|row| row < parallel).collect(),
            causal_length: config.text_length,
            prefix: None,
            mask_locations: None,
            weights: Tensor::ones([ROWS as i64], (Kind::Float, Device::Cpu)),
        };
        captioner.loss(&batch).expect("a fitting batch").sum.backward();
        let grads = captioner.params().grads();
        optimizer.step(captioner.params(), &grads, step, 1.0 / ROWS as f64).expect("an update");
        captioner.params().clear_grads().expect("leaf tensors");
    }
    captioner
}

/// How often the right caption is likelier than a false one: with its image, and with the mean of all.
fn accuracy(captioner: &Captioner, wrong: impl Fn(Scene) -> [i64; 5]) -> (f64, f64) {
    let _no_grad = tch::no_grad_guard();
    let scenes: Vec<Scene> = (1 << 40..(1 << 40) + 96).map(Scene::nth).collect();
    let images = images(&scenes);
    let mean = images.to_kind(Kind::Float).mean_dim([0i64].as_slice(), true, Kind::Float) / 127.5 - 1.0;
    let [right, wrong] =
        [tokens(scenes.iter().map(|scene| scene.caption())), tokens(scenes.iter().map(|&scene| wrong(scene)))];
    let share = |encoded: &Tensor| {
        let of = |tokens| captioner.log_likelihood(encoded, tokens).expect("captions fit");
        of(&right).gt_tensor(&of(&wrong)).to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    };
    let seeing = captioner.encode(&images).expect("images fit");
    let blind = captioner.encode(&mean).expect("images fit").expand([scenes.len() as i64, -1, -1], false);
    (share(&seeing), share(&blind))
}

fn shuffled(scene: Scene) -> [i64; 5] {
    let [a, b, c, d, end] = scene.caption();
    [b, a, d, c, end]
}

#[test]
fn a_captioner_knows_attributes_and_relations_which_its_blind_decoder_cannot() {
    let cap = trained(0.0, 120);
    let (attributes, blind) = accuracy(&cap, |scene| scene.attributes_exchanged().caption());
    assert!(attributes > 0.95 && blind < 0.75, "attributes: {attributes}, blind {blind}");
    let (relations, blind) = accuracy(&cap, |scene| scene.relation_reversed().caption());
    assert!(relations > 0.95 && blind < 0.75, "relations: {relations}, blind {blind}");
    // Word order is grammar: a probe that the blind decoder solves says nothing of the image.
    let (order, blind) = accuracy(&cap, shuffled);
    assert!(order == 1.0 && blind == 1.0, "order: {order}, blind {blind}");
}

#[test]
fn parallel_prediction_teaches_the_same_with_fewer_examples_in_order() {
    let cappa = trained(0.75, 160);
    let (attributes, _) = accuracy(&cappa, |scene| scene.attributes_exchanged().caption());
    let (relations, _) = accuracy(&cappa, |scene| scene.relation_reversed().caption());
    assert!(attributes > 0.95 && relations > 0.95, "attributes: {attributes}, relations {relations}");
}
