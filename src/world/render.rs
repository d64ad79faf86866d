//! A scene's frames as RGB pictures: flat anti-aliased shapes on a floor whose colour tells the place.

use super::physics::{Motion, NUM_OBJECTS, Outcome};
use super::scene::{COLORS, Look, Shape};
use super::spec::MINI;

/// One picture: `[side, side, 3]` bytes, row-major, red green blue.
pub type Picture = Vec<u8>;

/// Half width and half height of a shape, as shares of the radius.
fn half_extent(shape: Shape) -> (f64, f64) {
    match shape {
        Shape::Cube => (0.87, 0.87),
        Shape::Sphere => (1.0, 1.0),
        Shape::Cylinder => (0.58, 1.0),
    }
}

/// Every frame of the clip.
pub fn render(looks: &[Look; NUM_OBJECTS], outcome: &Outcome) -> Vec<Picture> {
    let floor = floor();
    let draw_all = |objects: &[Motion; NUM_OBJECTS]| {
        let mut picture = floor.clone();
        for (look, object) in looks.iter().zip(objects) {
            draw(&mut picture, *look, object.position);
        }
        picture
    };
    outcome.frames.iter().map(draw_all).collect()
}

/// The empty floor: red grows to the right, green grows downwards, so that a colour is a place.
fn floor() -> Picture {
    let side = MINI.side();
    let share = |pixel: usize| (pixel as f64 + 0.5) / side as f64;
    let mut picture = Vec::with_capacity(side * side * 3);
    for row in 0..side {
        for column in 0..side {
            let (x, y) = (share(column), share(row));
            picture.extend(
                [150.0 + 90.0 * x, 150.0 + 90.0 * y, 200.0 - 40.0 * x]
                    .map(|value: f64| value.round() as u8),
            );
        }
    }
    picture
}

/// Draws one object with its edge smoothed over a pixel.
fn draw(picture: &mut Picture, look: Look, center: [f64; 2]) {
    let side = MINI.side();
    let radius = MINI.radius;
    let (half_width, half_height) = half_extent(look.shape);
    let color = COLORS[look.color].1.map(f64::from);
    let range = |center: f64| {
        let clamp = |value: f64| value.clamp(0.0, side as f64) as usize;
        clamp((center - radius - 1.0).floor())..clamp((center + radius + 2.0).floor())
    };
    for row in range(center[1]) {
        for column in range(center[0]) {
            let x = column as f64 + 0.5 - center[0];
            let y = row as f64 + 0.5 - center[1];
            let outside = match look.shape {
                Shape::Sphere => (x * x + y * y).sqrt() - radius,
                Shape::Cube | Shape::Cylinder => {
                    (x.abs() - half_width * radius).max(y.abs() - half_height * radius)
                }
            };
            let coverage = (0.5 - outside).clamp(0.0, 1.0);
            let shine = if look.metal { highlight(x, y) } else { 0.0 };
            let start = (row * side + column) * 3;
            for (value, paint) in picture[start..start + 3].iter_mut().zip(color) {
                let paint = paint + (255.0 - paint) * shine;
                *value = (f64::from(*value) * (1.0 - coverage) + paint * coverage).round() as u8;
            }
        }
    }
}

/// How much of white the highlight of metal adds at this offset from the centre.
fn highlight(x: f64, y: f64) -> f64 {
    let (x, y) = (x + 0.25 * MINI.radius, y + 0.4 * MINI.radius);
    let outside = (x * x + y * y).sqrt() - 0.22 * MINI.radius;
    0.6 * (0.5 - outside).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
        let start = (y * MINI.side() + x) * 3;
        [picture[start], picture[start + 1], picture[start + 2]]
    }

    #[test]
    fn shapes_have_their_colour_extent_and_soft_edges() {
        let red = |shape| Look {
            color: 1,
            shape,
            metal: false,
        };
        let empty = floor();
        for (shape, corner_is_red, side_is_red) in [
            (Shape::Cube, true, true),
            (Shape::Sphere, false, true),
            (Shape::Cylinder, false, false),
        ] {
            let mut picture = floor();
            draw(&mut picture, red(shape), [56.0, 56.0]);
            assert_eq!(pixel(&picture, 56, 56), COLORS[1].1);
            assert_eq!(
                pixel(&picture, 64, 64) == COLORS[1].1,
                corner_is_red,
                "{shape:?}"
            );
            assert_eq!(
                pixel(&picture, 64, 56) == COLORS[1].1,
                side_is_red,
                "{shape:?}"
            );
            assert_eq!(pixel(&picture, 68, 56), pixel(&empty, 68, 56));
            let mixed = (0..112).any(|x| {
                let value = pixel(&picture, x, 56);
                value != COLORS[1].1 && value != pixel(&empty, x, 56)
            });
            assert!(mixed, "{shape:?} has a hard edge");
        }
    }

    #[test]
    fn an_object_may_leave_the_picture() {
        let mut picture = floor();
        let look = Look {
            color: 2,
            shape: Shape::Sphere,
            metal: true,
        };
        draw(&mut picture, look, [-4.0, 118.0]);
        assert_ne!(picture, floor());
        let mut far = floor();
        draw(&mut far, look, [-40.0, 300.0]);
        assert_eq!(far, floor());
    }
}
