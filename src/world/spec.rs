//! Every number of the miniature world, in one place.
//!
//! Lengths are pixels of the rendered picture. Time is counted in *sampled* frames: those that a model
//! sees at two frames per second. The clip holds further frames between them for people to watch.

/// The numbers of the world. [`MINI`] is the one that is used; the type documents it.
#[derive(Debug, Clone, Copy)]
pub struct WorldSpec {
    /// Cells per side of the square floor. A cell is what one video token of the model covers.
    pub cells_per_side: usize,
    /// Side of a cell: patch 14 × merge 2.
    pub cell: f64,
    /// Objects start in the middle of a cell, off by at most this in x and in y.
    pub jitter: f64,
    /// Radius of the disc that every object is to the physics.
    pub radius: f64,
    /// Share of scenes with three objects in one row or column.
    pub line_share: f64,
    /// Share of scenes with two moving objects; the others have one.
    pub two_movers_share: f64,
    /// Least speed of a mover at the start, per sampled frame.
    pub min_speed: f64,
    /// Greatest speed of a mover at the start.
    pub max_speed: f64,
    /// Loss of speed by friction, per sampled frame.
    pub friction: f64,
    /// Coefficient of restitution: 1 is an elastic impact.
    pub restitution: f64,
    /// Steps of the simulation per sampled frame.
    pub substeps: usize,
    /// Sampled frames of a clip.
    pub sampled_frames: usize,
    /// Clip frames per sampled frame.
    pub frames_per_sample: usize,
    /// Sampled frames per second.
    pub samples_per_second: usize,
    /// A factual scene has at most this many collisions (and at least one).
    pub max_events: usize,
    /// A factual collision's normal speed is at least this: it can be seen.
    pub min_impact_speed: f64,
    /// Sine of the angle between relative velocity and contact normal is at most this: nearly head-on.
    pub max_impact_offset: f64,
    /// Factual objects that do not collide stay at least this far apart, surface to surface.
    pub min_gap: f64,
    /// Factual collisions are at least this many sampled frames apart.
    pub min_event_distance: f64,
    /// The last factual collision happens at this time at the latest: its effect is seen.
    pub latest_event: f64,
    /// Share of inferential questions.
    pub inferential_share: f64,
    /// Share of *thinkers* among the worked answers; the others are *observers*.
    pub thinker_share: f64,
    /// An object that moves less than this in one sampled frame is called still.
    pub still: f64,
    /// Counterfactual questions per clip in the worked answers.
    pub worked_questions: usize,
}

/// The miniature world.
pub const MINI: WorldSpec = WorldSpec {
    cells_per_side: 4,
    cell: 28.0,
    jitter: 2.0,
    radius: 10.5,
    line_share: 0.8,
    two_movers_share: 0.8,
    min_speed: 6.0,
    max_speed: 9.0,
    friction: 0.4,
    restitution: 0.95,
    substeps: 20,
    sampled_frames: 8,
    frames_per_sample: 2,
    samples_per_second: 2,
    max_events: 4,
    min_impact_speed: 2.0,
    max_impact_offset: 0.35,
    min_gap: 2.5,
    min_event_distance: 0.5,
    latest_event: 6.0,
    inferential_share: 0.25,
    thinker_share: 0.55,
    still: 0.7,
    worked_questions: 3,
};

impl WorldSpec {
    /// Side of the square picture, in pixels.
    pub const fn side(&self) -> usize {
        self.cells_per_side * self.cell as usize
    }

    /// Temporal grids: the model sees two sampled frames as one.
    pub const fn num_grids(&self) -> usize {
        self.sampled_frames / 2
    }

    /// Frames of a clip. With `7 m + 1` frames, eight evenly spaced ones are all exact.
    pub const fn clip_frames(&self) -> usize {
        (self.sampled_frames - 1) * self.frames_per_sample + 1
    }

    /// Frames per second of the clip as a fraction, such that sampling it at `samples_per_second`
    /// takes `sampled_frames` frames.
    pub const fn clip_rate(&self) -> (usize, usize) {
        (
            self.clip_frames() * self.samples_per_second,
            self.sampled_frames,
        )
    }
}
