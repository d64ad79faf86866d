//! A scene's frames as RGB pictures: flat anti-aliased shapes on a floor whose colour tells the place.

use super::physics::{Motion, NUM_OBJECTS, Simulation};
use super::scene::{COLORS, Look, Shape};
use super::spec::MINI;

/// One picture: `[side, side, 3]` bytes, row-major, red green blue.
pub(crate) type Picture = Vec<u8>;

/// Every frame of the clip.
pub fn render(looks: &[Look; NUM_OBJECTS], simulation: &Simulation) -> Vec<Picture> {
    let floor = floor();
    let draw_all = |objects: &[Motion; NUM_OBJECTS]| {
        let mut picture = floor.clone();
        for (look, object) in looks.iter().zip(objects) {
            draw(&mut picture, *look, object.position);
        }
        picture
    };
    simulation.frames.iter().map(draw_all).collect()
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

/// Draws one object with its edges smoothed over a pixel.
fn draw(picture: &mut Picture, look: Look, center: [f64; 2]) {
    let side = MINI.side();
    let color = COLORS[look.color].1.map(f64::from);
    let range = |center: f64| {
        let clamp = |value: f64| value.clamp(0.0, side as f64) as usize;
        clamp((center - MINI.radius - 1.0).floor())..clamp((center + MINI.radius + 2.0).floor())
    };
    for row in range(center[1]) {
        for column in range(center[0]) {
            let x = column as f64 + 0.5 - center[0];
            let y = row as f64 + 0.5 - center[1];
            let (body, light) = coverage(look.shape, x, y);
            let start = (row * side + column) * 3;
            for (value, paint) in picture[start..start + 3].iter_mut().zip(color) {
                let paint = (paint + LIGHT * light).min(255.0);
                *value = (f64::from(*value) * (1.0 - body) + paint * body).round() as u8;
            }
        }
    }
}

/// Added to the colour where an object is light.
const LIGHT: f64 = 90.0;

/// How much of the pixel at this offset from the centre is the object, and how much of it is light.
fn coverage(shape: Shape, x: f64, y: f64) -> (f64, f64) {
    let radius = MINI.radius;
    // From the signed distance to an edge, negative inside.
    let inside = |distance: f64| (0.5 - distance).clamp(0.0, 1.0);
    let disc = |x: f64, y: f64, radius: f64| inside((x * x + y * y).sqrt() - radius);
    let block = |half_width: f64, half_height: f64| {
        inside((x.abs() - half_width * radius).max(y.abs() - half_height * radius))
    };
    match shape {
        Shape::Cube => (block(0.9, 0.9), 0.0),
        Shape::Sphere => {
            let highlight = disc(x + 0.3 * radius, y + 0.3 * radius, 0.1f64.sqrt() * radius);
            (disc(x, y, radius), highlight)
        }
        Shape::Cylinder => (block(0.8, 1.0), inside(y + 0.45 * radius)),
    }
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
        let red = |shape| Look { color: 1, shape };
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
            let light = COLORS[1].1.map(|value| value.saturating_add(LIGHT as u8));
            let light_at = |x, y| pixel(&picture, x, y) == light;
            assert_eq!(light_at(52, 52), shape == Shape::Sphere);
            assert_eq!(light_at(60, 47), shape == Shape::Cylinder);
        }
    }

    #[test]
    fn an_object_may_leave_the_picture() {
        let mut picture = floor();
        let look = Look {
            color: 2,
            shape: Shape::Sphere,
        };
        draw(&mut picture, look, [-4.0, 118.0]);
        assert_ne!(picture, floor());
        let mut far = floor();
        draw(&mut far, look, [-40.0, 300.0]);
        assert_eq!(far, floor());
    }
}
