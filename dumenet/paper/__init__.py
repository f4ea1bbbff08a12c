"""The paper's tables as resumable jobs, the tables that come of them, and a verdict on each of its claims."""
