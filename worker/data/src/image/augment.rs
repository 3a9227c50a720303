//! Random changes of an image. What is drawn depends on the seed, the epoch and the slot alone, and is computed without the
//! machine's mathematical library, whose last digits differ from one machine to another.

use cappa_shared::order::{Draws, Purpose, Stream};
use cappa_shared::spec::{Augment, Crop, Jitter};

use super::colour::{self, Change};
use super::{RgbImage, Window};

/// What is drawn for one image.
#[derive(Debug, Clone, Copy)]
pub struct Augmentation<'a> {
    /// What may change.
    pub augment: &'a Augment,
    /// The job's draws.
    pub draws: Draws,
    /// Epoch of the slot.
    pub epoch: u64,
    /// Number of the slot.
    pub slot: u64,
}

/// Attempts to find a window inside the image, as torchvision makes.
const ATTEMPTS: usize = 10;

impl Augmentation<'_> {
    /// The part of a `width × height` image that is used.
    pub(super) fn window(&self, width: usize, height: usize) -> Window {
        match &self.augment.crop {
            None => Window { left: 0, top: 0, width, height },
            Some(crop) => draw_window(crop, &mut self.stream(Purpose::Crop), width, height),
        }
    }

    /// Changes the resized image.
    pub(super) fn change(&self, image: &mut RgbImage) {
        if self.draws.unit(self.epoch, self.slot, Purpose::Flip) < self.augment.flip {
            image.mirror();
        }
        if let Some(jitter) = &self.augment.jitter {
            for change in draw_changes(jitter, &mut self.stream(Purpose::Colour)) {
                colour::apply(change, &mut image.pixels);
            }
        }
    }

    fn stream(&self, purpose: Purpose) -> Stream {
        self.draws.stream(self.epoch, self.slot, purpose)
    }
}

/// A window of random area and aspect; where none fits, the largest one in the middle whose aspect is allowed. Reference:
/// torchvision `RandomResizedCrop.get_params`.
fn draw_window(crop: &Crop, draws: &mut Stream, width: usize, height: usize) -> Window {
    let (columns, rows) = (width as f64, height as f64);
    let [narrow, wide] = crop.ratio;
    for _ in 0..ATTEMPTS {
        let area = columns * rows * draws.between(crop.scale[0], crop.scale[1]);
        let ratio = libm::exp(draws.between(libm::log(narrow), libm::log(wide)));
        let w = libm::rint(libm::sqrt(area * ratio)) as usize;
        let h = libm::rint(libm::sqrt(area / ratio)) as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let mut place = |room: usize| draws.below(room as u64 + 1) as usize;
            return Window { top: place(height - h), left: place(width - w), width: w, height: h };
        }
    }
    let ratio = columns / rows;
    let (w, h) = if ratio < narrow {
        (width, libm::rint(columns / narrow) as usize)
    } else if ratio > wide {
        (libm::rint(rows * wide) as usize, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    Window { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

/// The four changes in a random order. Reference: torchvision `ColorJitter.get_params`.
fn draw_changes(jitter: &Jitter, draws: &mut Stream) -> [Change; 4] {
    let mut factor = |range: f64| draws.between((1.0 - range).max(0.0), 1.0 + range);
    let (brightness, contrast, saturation) =
        (factor(jitter.brightness), factor(jitter.contrast), factor(jitter.saturation));
    let mut changes = [
        Change::Brightness(brightness),
        Change::Contrast(contrast),
        Change::Saturation(saturation),
        Change::Hue(draws.between(-jitter.hue, jitter.hue) as f32),
    ];
    // Fisher and Yates's shuffle.
    for last in (1..changes.len()).rev() {
        changes.swap(last, draws.below(last as u64 + 1) as usize);
    }
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_lie_inside_and_have_the_asked_area_and_aspect(
            width in 1usize..3000, height in 1usize..3000, seed: u64, low in 0.05f64..1.0, wide in 1.0f64..2.0,
        ) {
            let crop = Crop { scale: [low, 1.0], ratio: [1.0 / wide, wide] };
            let window = draw_window(&crop, &mut Draws::new(seed).stream(1, 2, Purpose::Crop), width, height);
            prop_assert!(window.width > 0 && window.left + window.width <= width);
            prop_assert!(window.height > 0 && window.top + window.height <= height);
            // The aspect is met up to rounding to whole pixels.
            let (w, h) = (window.width as f64, window.height as f64);
            prop_assert!((w - 1.0) / (h + 1.0) <= wide && (h - 1.0) / (w + 1.0) <= wide, "{window:?}");
        }
    }

    #[test]
    fn draws_are_the_same_on_every_machine() {
        let augment = Augment { crop: Some(Crop::default()), flip: 0.5, jitter: None };
        let draws = Draws::new(7);
        let at = |slot| Augmentation { augment: &augment, draws, epoch: 1, slot }.window(500, 400);
        assert_eq!(at(0), at(0));
        assert_eq!(at(0), Window { left: 54, top: 52, width: 345, height: 312 });
    }
}
