"""Learner, phases, callbacks and everything else that training needs."""
