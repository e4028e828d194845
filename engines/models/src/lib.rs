//! Real models on lacuna.
