//! From a scene to pixels, and to a JPEG file.

use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};
use tiny_skia::{Color, FillRule, Mask, Paint, Path, PathBuilder, Pixmap, Rect, Transform};

use super::outline::{self, FILL_RULE};
use super::rng::Rng;
use super::rules::Rules;
use super::scene::{Content, Item, Scene};
use super::vocabulary::Texture;
use super::words::lettering;

/// High enough, with chroma at full resolution, that no colour bleeds into its neighbour.
const JPEG_QUALITY: u8 = 92;
/// The grey levels of backgrounds: between white and black, which are colours of objects.
const BACKGROUND: (f32, f32) = (112.0, 150.0);
/// The largest deviation of one background channel from grey.
const BACKGROUND_TINT: f32 = 5.0;

type Rgb = [f32; 3];

/// Draws the scene: `size` × `size` pixels, RGB, row by row.
pub(super) fn render(scene: &Scene, rules: &Rules, size: u32, rng: &mut Rng) -> Vec<u8> {
    let mut canvas = Pixmap::new(size, size).expect("the configuration bounds the image size");
    let grey = rng.range(BACKGROUND.0, BACKGROUND.1);
    canvas.fill(to_color(jitter([grey; 3], BACKGROUND_TINT, rng)));
    for item in &scene.items {
        let colour = jitter(item.colour.rgb().map(f32::from), rules.colour_jitter, rng);
        match item.content {
            Content::Object { .. } => draw_object(&mut canvas, item, colour),
            Content::Word { .. } => draw_word(&mut canvas, item, colour),
        }
    }
    let mut pixels: Vec<u8> =
        canvas.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]).collect();
    if rules.noise > 0.0 {
        shade_and_roughen(&mut pixels, size, rules.noise, rng);
    }
    pixels
}

/// Encodes `size` × `size` RGB pixels.
pub(super) fn encode_jpeg(pixels: &[u8], size: u32) -> Result<Vec<u8>, EncodingError> {
    let side = u16::try_from(size).expect("the configuration bounds the image size");
    let mut file = Vec::with_capacity(4096);
    let mut encoder = Encoder::new(&mut file, JPEG_QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    encoder.encode(pixels, side, side, ColorType::Rgb)?;
    Ok(file)
}

fn draw_object(canvas: &mut Pixmap, item: &Item, colour: Rgb) {
    let Content::Object { shape, texture, .. } = item.content else {
        return;
    };
    let side = canvas.width() as f32;
    let radius = item.place.half[0] * side;
    let centre = item.place.centre.map(|coordinate| coordinate * side);
    let place = Transform::from_rotate(item.angle).post_scale(radius, radius).post_translate(centre[0], centre[1]);
    let path = outline::outline(shape);
    canvas.fill_path(path, &paint(colour), FILL_RULE, place, None);

    let period = (0.42 * radius).max(side / 16.0);
    let Some(pattern) = pattern(texture, radius, period) else {
        return;
    };
    let mut inside = Mask::new(canvas.width(), canvas.height()).expect("the canvas has a size");
    inside.fill_path(path, FILL_RULE, true, place);
    let turn = Transform::from_rotate(item.angle).post_translate(centre[0], centre[1]);
    canvas.fill_path(&pattern, &paint(shade(colour)), FillRule::Winding, turn, Some(&inside));
}

fn draw_word(canvas: &mut Pixmap, item: &Item, colour: Rgb) {
    let Content::Word { word, typeface } = item.content else {
        return;
    };
    let side = canvas.width() as f32;
    let half_width = item.place.half[0] * side;
    let [x, y] = item.place.centre.map(|coordinate| coordinate * side);
    let place = Transform::from_scale(half_width, half_width).post_translate(x, y);
    canvas.fill_path(&lettering(word, typeface).path, &paint(colour), FillRule::Winding, place, None);
}

/// The marks of a texture over the square of half side `radius` around the origin, in pixels.
fn pattern(texture: Texture, radius: f32, period: f32) -> Option<Path> {
    let mut builder = PathBuilder::new();
    let count = (radius / period).ceil() as i32;
    for row in -count..=count {
        let y = row as f32 * period;
        if texture == Texture::Striped {
            builder.push_rect(Rect::from_xywh(-radius, y - 0.25 * period, 2.0 * radius, 0.5 * period)?);
            continue;
        }
        for column in -count..=count {
            let x = column as f32 * period;
            match texture {
                Texture::Plain | Texture::Striped => return None,
                Texture::Dotted => builder.push_circle(x, y, 0.32 * period),
                Texture::Checked if (row + column) % 2 == 0 => {
                    builder.push_rect(Rect::from_xywh(x - 0.5 * period, y - 0.5 * period, period, period)?);
                }
                Texture::Checked => {}
            }
        }
    }
    builder.finish()
}

/// The colour of a texture's marks: the same hue, darker; lighter where it is nearly black. Neither white nor black
/// comes near the grey of the background, so no mark looks like a hole.
fn shade(colour: Rgb) -> Rgb {
    let brightest = colour.into_iter().fold(0.0, f32::max);
    colour.map(|channel| if brightest < 60.0 { channel + 60.0 } else { 0.3 * channel })
}

/// Adds a linear gradient of light and independent noise to every pixel.
fn shade_and_roughen(pixels: &mut [u8], size: u32, amplitude: f32, rng: &mut Rng) {
    let slope = [rng.range(-1.0, 1.0), rng.range(-1.0, 1.0)].map(|slope| 3.0 * amplitude * slope / size as f32);
    let side = size as usize;
    for (index, pixel) in pixels.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((index % side) as f32, (index / side) as f32);
        let light = slope[0] * (x - 0.5 * side as f32) + slope[1] * (y - 0.5 * side as f32);
        let offset = light + rng.range(-amplitude, amplitude);
        for channel in pixel {
            *channel = (f32::from(*channel) + offset).clamp(0.0, 255.0) as u8;
        }
    }
}

fn jitter(colour: Rgb, amplitude: f32, rng: &mut Rng) -> Rgb {
    colour.map(|channel| (channel + rng.range(-amplitude, amplitude)).clamp(0.0, 255.0))
}

fn to_color(colour: Rgb) -> Color {
    let [red, green, blue] = colour.map(|channel| channel as u8);
    Color::from_rgba8(red, green, blue, 255)
}

fn paint(colour: Rgb) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color(to_color(colour));
    paint
}
