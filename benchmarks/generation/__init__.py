"""Engines, replicas and fleets against vLLM and ray.data.llm."""
