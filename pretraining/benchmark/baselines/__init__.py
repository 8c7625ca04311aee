"""The methods that tabrl is compared with."""
