"""Policies made by choosing among several samples of one: best-of-n, rejection sampling, online DPO, a teacher's."""
