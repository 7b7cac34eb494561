"""Patches from elsewhere, and stores looked over, decided again, checked and described."""
