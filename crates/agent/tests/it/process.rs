//! Processes in real sandboxes.
