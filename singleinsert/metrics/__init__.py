"""What measures a picture: encoders, regions, the papers' scores and the judges of edits."""
