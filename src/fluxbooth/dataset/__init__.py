"""What the network will see: pictures, buckets, captions and the plan. Nothing in here imports torch."""
